"""`cjson` for scripts: JSON in Lua itself, so that a script's bounds on time and memory hold inside it as well. It
gives and says what Redis's own does, but that hex, infinities, a plus before a number and what follows a zero byte are
no JSON here. It must not know the gateway.
"""

from __future__ import annotations

from typing import Final

#: How deep values may be nested, both ways, as in Redis.
DEPTH_MAX: Final = 1000

#: A chunk that answers the module. It keeps what it uses of Lua's library: scripts may change theirs. It calls no
#: metamethods, and raises errors where the script called it: `value` and `write` stand depth + 1 deep below that.
SOURCE: Final = rb"""
local DEPTH_MAX, null = ..., newproxy()
local byte, char, concat, find, floor = string.byte, string.char, table.concat, string.find, math.floor
local format, gsub, huge, next, rawget, select = string.format, string.gsub, math.huge, next, rawget, select
local sub, tonumber, tostring, type, error = string.sub, tonumber, tostring, type, error

local escaped = {['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\t"] = "\\t", ["\n"] = "\\n",
    ["\f"] = "\\f", ["\r"] = "\\r", ["\127"] = "\\u007f"}
for code = 0, 31 do escaped[char(code)] = escaped[char(code)] or format("\\u%04x", code) end

local function quoted(text)
    return '"' .. gsub(text, '[%c"\\/]', escaped) .. '"'
end

-- How long a table is as a list; nil if it is none; false if too much of it would be holes.
local function length(list)
    local last, count = 0, 0
    for key in next, list do
        if type(key) ~= "number" or key < 1 or floor(key) ~= key then return nil end
        if key > last then last = key end
        count = count + 1
    end
    if last > 10 and last > count * 2 then return false end
    return last
end

local write
local function write_table(parts, value, depth)
    if depth > DEPTH_MAX then error("Cannot serialise, excessive nesting (" .. depth .. ")", 2 * depth + 2) end
    local last = length(value)
    if last == false then error("Cannot serialise table: excessively sparse array", 2 * depth + 2) end
    local comma = ""
    if last and last > 0 then
        parts[#parts + 1] = "["
        for place = 1, last do
            parts[#parts + 1] = comma
            write(parts, rawget(value, place), depth)
            comma = ","
        end
        parts[#parts + 1] = "]"
        return
    end
    parts[#parts + 1] = "{"
    for key, item in next, value do
        local kind = type(key)
        parts[#parts + 1] = comma
        if kind == "string" then parts[#parts + 1] = quoted(key)
        elseif kind == "number" then parts[#parts + 1] = '"' .. format("%.14g", key) .. '"'
        else error("Cannot serialise " .. kind .. ": table key must be a number or string", 2 * depth + 2) end
        parts[#parts + 1] = ":"
        write(parts, item, depth)
        comma = ","
    end
    parts[#parts + 1] = "}"
end

function write(parts, value, depth)
    local kind = type(value)
    if kind == "string" then parts[#parts + 1] = quoted(value)
    elseif kind == "number" then
        if value ~= value or value == huge or value == -huge then
            error("Cannot serialise number: must not be NaN or Inf", 2 * depth + 3)
        end
        parts[#parts + 1] = format("%.14g", value)
    elseif kind == "boolean" then parts[#parts + 1] = tostring(value)
    elseif value == nil or value == null then parts[#parts + 1] = "null"
    elseif kind == "table" then write_table(parts, value, depth + 1)
    else error("Cannot serialise " .. kind .. ": type not supported", 2 * depth + 3) end
end

-- A character of UTF-8.
local function utf8(code)
    if code < 128 then return char(code) end
    local last = 128 + code % 64
    if code < 2048 then return char(192 + floor(code / 64), last) end
    local before = 128 + floor(code / 64) % 64
    if code < 65536 then return char(224 + floor(code / 4096), before, last) end
    return char(240 + floor(code / 262144), 128 + floor(code / 4096) % 64, before, last)
end

local plain = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

-- The character that an escape stands for, and where it ends; or nil, what is wrong.
local function unescaped(text, at)
    local name = sub(text, at + 1, at + 1)
    if name ~= "u" then return plain[name], plain[name] and at + 1 or "invalid escape code" end
    if not find(text, "^%x%x%x%x", at + 2) then return nil, "invalid unicode escape code" end
    local code, to = tonumber(sub(text, at + 2, at + 5), 16), at + 5
    if code >= 55296 and code < 57344 then
        if code >= 56320 or not find(text, "^\\u[dD][c-fC-F]%x%x", at + 6) then
            return nil, "invalid unicode escape code"
        end
        code, to = 65536 + (code - 55296) * 1024 + tonumber(sub(text, at + 8, at + 11), 16) - 56320, at + 11
    end
    return utf8(code), to
end

-- The string whose quote is at `at`, and where it ends; or nil, what is wrong, and where.
local function text_at(text, at)
    local _, to = find(text, '^[^"\\%z]*', at + 1)
    if byte(text, to + 1) == 34 then return sub(text, at + 1, to), to + 1 end
    local parts = {sub(text, at + 1, to)}
    while byte(text, to + 1) == 92 do
        local piece, ends = unescaped(text, to + 1)
        if not piece then return nil, ends, to + 1 end
        parts[#parts + 1] = piece
        _, to = find(text, '^[^"\\%z]*', ends + 1)
        parts[#parts + 1] = sub(text, ends + 1, to)
    end
    if byte(text, to + 1) ~= 34 then return nil, "unexpected end of string", to + 1 end
    return concat(parts), to + 1
end

-- Where the number at `at` ends; nil if there is none. As in Redis, zeros may lead, and digits lack beside the point.
local function number_end(text, at)
    local _, to = find(text, "^-?%d+%.?%d*", at)
    if not to then
        _, to = find(text, "^-%.%d+", at)
        if not to then return nil end
    end
    local _, power = find(text, "^[eE][+-]?%d+", to + 1)
    return power or to
end

local function start(text, at)
    return find(text, "[^ \t\r\n]", at) or #text + 1
end

local names = {["{"] = "T_OBJ_BEGIN", ["}"] = "T_OBJ_END", ["["] = "T_ARR_BEGIN", ["]"] = "T_ARR_END",
    [","] = "T_COMMA", [":"] = "T_COLON", [""] = "T_END"}

local function fail(wanted, text, at, level)
    local first = sub(text, at, at)
    local name = names[first]
    if first == '"' then
        local good, problem, where = text_at(text, at)
        name, at = good and "T_STRING" or problem, where or at
    elseif find(first, "[-%d]") then name = number_end(text, at) and "T_NUMBER" or "invalid number"
    elseif find(text, "^true", at) or find(text, "^false", at) then name = "T_BOOLEAN"
    elseif find(text, "^null", at) then name = "T_NULL" end
    error("Expected " .. wanted .. " but found " .. (name or "invalid token") .. " at character " .. at, level + 1)
end

local value
local function deeper(depth, at)
    if depth > DEPTH_MAX then
        error("Found too many nested data structures (" .. depth .. ") at character " .. at, depth + 3)
    end
end

-- The value at `at`, where no space is, `depth` deep; and where it ends.
function value(text, at, depth)
    local first = byte(text, at)
    if first == 34 then
        local found, to = text_at(text, at)
        if found then return found, to end
    elseif first == 123 then
        local found, to = {}, start(text, at + 1)
        deeper(depth + 1, at)
        if byte(text, to) == 125 then return found, to end
        while true do
            local key, ends
            if byte(text, to) == 34 then key, ends = text_at(text, to) end
            if not key then fail("object key string", text, to, depth + 3) end
            to = start(text, ends + 1)
            if byte(text, to) ~= 58 then fail("colon", text, to, depth + 3) end
            found[key], to = value(text, start(text, to + 1), depth + 1)
            to = start(text, to + 1)
            local mark = byte(text, to)
            if mark == 125 then return found, to end
            if mark ~= 44 then fail("comma or object end", text, to, depth + 3) end
            to = start(text, to + 1)
        end
    elseif first == 91 then
        local found, count, to = {}, 0, start(text, at + 1)
        deeper(depth + 1, at)
        if byte(text, to) == 93 then return found, to end
        while true do
            count = count + 1
            found[count], to = value(text, to, depth + 1)
            to = start(text, to + 1)
            local mark = byte(text, to)
            if mark == 93 then return found, to end
            if mark ~= 44 then fail("comma or array end", text, to, depth + 3) end
            to = start(text, to + 1)
        end
    elseif first == 116 then
        if sub(text, at, at + 3) == "true" then return true, at + 3 end
    elseif first == 102 then
        if sub(text, at, at + 4) == "false" then return false, at + 4 end
    elseif first == 110 then
        if sub(text, at, at + 3) == "null" then return null, at + 3 end
    else
        local to = number_end(text, at)
        if to then return tonumber(sub(text, at, to)), to end
    end
    fail("value", text, at, depth + 3)
end

local function needs_one(name, ...)
    if select("#", ...) ~= 1 then error("bad argument #1 to '" .. name .. "' (expected 1 argument)", 3) end
end

return {
    null = null,
    _NAME = "cjson",
    encode = function(...)
        needs_one("encode", ...)
        local parts, item = {}, ...
        write(parts, item, 0)
        local text = concat(parts)
        return text
    end,
    decode = function(...)
        needs_one("decode", ...)
        local text = ...
        if type(text) == "number" then text = tostring(text) end
        if type(text) ~= "string" then
            error("bad argument #1 to 'decode' (string expected, got " .. type(text) .. ")", 2)
        end
        if #text > 1 and (byte(text, 1) == 0 or byte(text, 2) == 0) then
            error("JSON parser does not support UTF-16 or UTF-32", 2)
        end
        local found, to = value(text, start(text, 1), 0)
        to = start(text, to + 1)
        if to <= #text then fail("the end", text, to, 2) end
        return found
    end,
}
"""
