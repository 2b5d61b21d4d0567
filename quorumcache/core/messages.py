"""Every message of the protocol, in one table (`TABLE`).

Shapes and bounds only: what a node or a client does with them is in node.py, read.py, write.py and beside them; how
they become bytes is in wire/codec.py. A reply carries its request's id, the nonce of the protocol page, and
the node's clock at the time of the answer. Those about epochs are in epochmessages.py.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from quorumcache.core.ballots import PROOF_BYTES_MAX
from quorumcache.core.epochmessages import Follow as Follow
from quorumcache.core.epochmessages import FollowReply as FollowReply
from quorumcache.core.epochmessages import SealEpoch as SealEpoch
from quorumcache.core.epochmessages import SealReply as SealReply
from quorumcache.core.evidence import Proof
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    KEY_BYTES_MAX,
    NAMESPACE_BYTES_MAX,
    Certificate,
    Entry,
    header_slot,
)
from quorumcache.core.shapes import (
    Ballot,
    BallotOrNone,
    Bitmap,
    GroupId,
    Hash,
    HeaderBytes,
    Index,
    PathBytes,
    SaltedBytes,
    Signature,
    SlotBytes,
    TimeUs,
    Votes,
)
from quorumcache.core.shapes import Reply as Reply
from quorumcache.core.shapes import Request as Request
from quorumcache.core.types.base import KEY_FIELDS_MAX

READ_SLOTS_MAX: Final = 1024
#: Full answers carry values and certificates: few at a time, so that a reply stays within a frame.
READ_FULL_SLOTS_MAX: Final = 8
#: A node stops adding values to a reply beyond this; the client asks again for those left out.
REPLY_VALUES_BYTES_MAX: Final = 4 << 20
#: Headers and values of one prepare or commit; a client splits what is larger.
BATCH_BYTES_MAX: Final = 4 << 20
SHARD_SUMS_MAX: Final = 1024
REPORT_SHARDS_MAX: Final = 256
REPORT_ENTRIES_MAX: Final = 64
#: An outline has the entries themselves where headers, values and proofs are within this.
OUTLINE_BYTES_MAX: Final = 256 << 10
FIELDS_KNOWN_MAX: Final = 65_536
SCAN_KEYS_MAX: Final = 1024
EVIDENCE_PROOFS_MAX: Final = 16
#: A node stops listing once the keys of a reply have so many bytes: they may exceed it by one key.
SCAN_BYTES_MAX: Final = 128 << 10
#: Headers of changes in a reply, and their bytes: they may exceed these by one header.
CHANGES_MAX: Final = 1024
CHANGES_BYTES_MAX: Final = 256 << 10

# Why a node refuses one header (protocol 3, prepare).
DENIED: Final = 1
STALE: Final = 2
EQUIVOCATION: Final = 3
BELOW_FLOOR: Final = 4
AHEAD: Final = 5
BUSY: Final = 6
FULL: Final = 7
GENERATION: Final = 8
REFUSALS: Final = {
    DENIED: "DENIED",
    STALE: "STALE",
    EQUIVOCATION: "EQUIVOCATION",
    BELOW_FLOOR: "BELOW_FLOOR",
    AHEAD: "AHEAD",
    BUSY: "BUSY",
    FULL: "FULL",
    GENERATION: "GENERATION",
}

# Why a node neither votes nor grants, beside those (protocol 17).
LOCKED: Final = 9
SILENT: Final = 10
BALLOT_CODES: Final = {0: "OK", **REFUSALS, LOCKED: "LOCKED", SILENT: "SILENT"}

# How a node answers one committed entry (protocol 3, commit).
OK: Final = 0
EVICTED: Final = 1
REVOKED: Final = 2
RECOVERING: Final = 3
COMMIT_FULL: Final = 4
INVALID: Final = 5
#: For a field: its key is of another generation here; or of none yet, and could be given this one's base.
OTHER: Final = 6
NO_BASE: Final = 7
COMMIT_CODES: Final = ("OK", "EVICTED", "REVOKED", "RECOVERING", "FULL", "INVALID", "OTHER", "NO_BASE")

# Why a node rejects a whole request.
BAD_FORM: Final = 1
BAD_SIGNATURE: Final = 2
WRONG_CONFIGURATION: Final = 3
SEALED: Final = 4
OVERLOADED: Final = 5
NOT_ALLOWED: Final = 6
REJECTIONS: Final = {
    BAD_FORM: "BAD_FORM",
    BAD_SIGNATURE: "BAD_SIGNATURE",
    WRONG_CONFIGURATION: "WRONG_CONFIGURATION",
    SEALED: "SEALED",
    OVERLOADED: "OVERLOADED",
    NOT_ALLOWED: "NOT_ALLOWED",
}


class Prepare(Request, tag=1):
    """A writer asks a group to promise a batch: its intent over the Merkle root of `headers`."""

    group: GroupId
    writer: Hash
    signature: Signature
    headers: Annotated[list[HeaderBytes], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]


class Refusal(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Why one header got no grant. `time_us` is the floor (BELOW_FLOOR, GENERATION) or the node's clock (AHEAD), else
    0; `proof` is the current entry (STALE) or the base (GENERATION, where there is one) without its value; `detail` is
    for people."""

    position: Index
    code: int
    time_us: TimeUs = 0
    proof: Entry | None = None
    detail: Annotated[str, Meta(max_length=200)] = ""


class PrepareReply(Reply, tag=2):
    """A node's grant over the headers in `bitmap` (`signature` is empty where the bitmap is), refusals for the rest."""

    bitmap: Bitmap
    signature: Annotated[bytes, Meta(max_length=64)]
    refusals: Annotated[list[Refusal], Meta(max_length=BATCH_COUNT_MAX)]


class Item(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """One entry of a bundle: its place in the batch, its header, its salt and value."""

    position: Index
    header: HeaderBytes
    salted: SaltedBytes
    path: PathBytes = b""


class Bundle(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Entries of one batch with their certificate. Either `leaves` has all the batch's digests and no item has a path
    (how a writer commits), or `leaves` is empty and each item has its path (how anyone else passes entries on)."""

    certificate: Certificate
    leaves: Annotated[bytes, Meta(max_length=32 * BATCH_COUNT_MAX)]
    items: Annotated[list[Item], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]


class Commit(Request, tag=3):
    """Certified entries for a node to store."""

    bundles: Annotated[list[Bundle], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]


class CommitReply(Reply, tag=4):
    """One code (`COMMIT_CODES`) per item, in order, and the shard's floor for each item answered EVICTED, else 0;
    `floors` is empty where nothing was evicted."""

    codes: bytes
    floors: list[TimeUs]


class Read(Request, tag=5):
    """What is current in these slots? Values are wanted of those in [values_from, values_to). The slot of a base stands
    for its whole key, that of a field for the field and its key's base."""

    slots: Annotated[list[SlotBytes], Meta(min_length=1, max_length=READ_SLOTS_MAX)]
    values_from: Annotated[int, Meta(ge=0, le=READ_SLOTS_MAX)] = 0
    values_to: Annotated[int, Meta(ge=0, le=READ_SLOTS_MAX)] = 0


class ReadReply(Reply, tag=6):
    """`digests` has 32 bytes per slot, zeros where it is absent; a digest covers its stamp. `values` has, for each
    slot in the asked range, its header and its salt and value: two empty strings where absent or left out. Of a key
    with fields these are the digest and values of keys.py: the base's header, and the fields packed."""

    digests: Annotated[bytes, Meta(max_length=32 * READ_SLOTS_MAX)]
    values: Annotated[list[bytes], Meta(max_length=2 * READ_SLOTS_MAX)]


class ReadFull(Request, tag=7):
    """What is current in these slots, with all that proves it?"""

    slots: Annotated[list[SlotBytes], Meta(min_length=1, max_length=READ_FULL_SLOTS_MAX)]


class FullAnswer(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A slot's current entry, or None and the floor of its shard in microseconds."""

    entry: Entry | None
    floor_us: TimeUs


class ReadFullReply(Reply, tag=8):
    """One answer per slot, in order."""

    answers: Annotated[list[FullAnswer], Meta(max_length=READ_FULL_SLOTS_MAX)]


class Report(Request, tag=9):
    """A node that recovers asks a member of its group for a shard, page by page: for the slots after `after`."""

    shard: Annotated[int, Meta(ge=0, lt=1 << 16)]
    after: SlotBytes = b""


class ReportReply(Reply, tag=10):
    """The shard's floor now; its entries in the order of their slots' bytes; `more` where a further page follows.
    Slots between `after` and the last entry (all above `after` where `more` is false) that are not named are absent.
    With `partial`, the last key goes on in the next page, which begins with that key's base again."""

    floor_us: TimeUs
    entries: Annotated[list[Entry], Meta(max_length=REPORT_ENTRIES_MAX)]
    more: bool
    partial: bool = False


class Outline(Request, tag=14):
    """What is in the key with this base, with all that proves it, or at least an outline of it?"""

    slot: SlotBytes


class OutlineReply(Reply, tag=15):
    """The key's base, or None; the floor of its shard. Where they fit, all its fields' entries; else `buckets` has, for
    each of its buckets that is not empty, its number and digest (33 bytes), in order."""

    base: Entry | None
    floor_us: TimeUs
    entries: Annotated[list[Entry], Meta(max_length=KEY_FIELDS_MAX)]
    buckets: Annotated[bytes, Meta(max_length=33 * 256)]


class Fields(Request, tag=16):
    """What is in these buckets of a key, after the field in slot `after`? Entries are wanted but for those whose
    digests' first 8 bytes are in `known`."""

    slot: SlotBytes
    buckets: Annotated[bytes, Meta(min_length=1, max_length=256)]
    after: SlotBytes
    known: Annotated[bytes, Meta(max_length=8 * FIELDS_KNOWN_MAX)]


class FieldsReply(Reply, tag=17):
    """The generation that the key has here (empty: none); the digests of the fields asked for, in the order of
    (bucket, slot); the entries of those not known to the asker; `more` where a further page follows."""

    generation: Annotated[bytes, Meta(max_length=48)]
    digests: Annotated[bytes, Meta(max_length=32 * KEY_FIELDS_MAX)]
    entries: Annotated[list[Entry], Meta(max_length=KEY_FIELDS_MAX)]
    more: bool


class Reject(Reply, tag=11):
    """The whole request is refused: `code` of `REJECTIONS`, and why, for people."""

    code: int
    detail: Annotated[str, Meta(max_length=400)] = ""


class Ping(Request, tag=12):
    """Are you there, and what is your clock?"""


class Pong(Reply, tag=13):
    """The answer to a ping: the clock is in every reply."""


class Position(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """A place in the listing of a group: after this key of the shard or, where it is empty, at the shard's start."""

    shard: Annotated[int, Meta(ge=0, lt=1 << 16)]
    after: Annotated[bytes, Meta(max_length=KEY_BYTES_MAX)] = b""


class Scan(Request, tag=18):
    """Which keys of a namespace begin with `prefix`, from `start` on, in the group's shards? At most `count` keys."""

    group: GroupId
    namespace: Annotated[bytes, Meta(min_length=1, max_length=NAMESPACE_BYTES_MAX)]
    prefix: Annotated[bytes, Meta(max_length=KEY_BYTES_MAX)]
    start: Position
    count: Annotated[int, Meta(ge=1, le=SCAN_KEYS_MAX)]


class ScanReply(Reply, tag=19):
    """Keys in the order of (shard, slot), with 32 bytes each in `digests`: what a read of it would report. `stop` is
    where to go on: after the last key, where `count` keys or SCAN_BYTES_MAX bytes of keys are listed, or at the start
    of a later shard; None where nothing follows in this group."""

    keys: Annotated[list[Annotated[bytes, Meta(max_length=KEY_BYTES_MAX)]], Meta(max_length=SCAN_KEYS_MAX)]
    digests: Annotated[bytes, Meta(max_length=32 * SCAN_KEYS_MAX)]
    stop: Position | None


class ShardSums(Request, tag=20):
    """Anti-entropy: what do these shards amount to?"""

    first: Annotated[int, Meta(ge=0, lt=1 << 16)]
    count: Annotated[int, Meta(ge=1, le=SHARD_SUMS_MAX)]


class ShardSumsReply(Reply, tag=21):
    """16 bytes a shard, in order, of the first of those asked for: as many as the node would hash at once."""

    sums: Annotated[bytes, Meta(max_length=16 * SHARD_SUMS_MAX)]


class ShardList(Request, tag=22):
    """Anti-entropy: what is in this shard, after this slot?"""

    shard: Annotated[int, Meta(ge=0, lt=1 << 16)]
    after: SlotBytes = b""


class Named(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A key that a node holds: its slot, the digest that a read would report, and the time that floors are held
    against, in microseconds."""

    slot: SlotBytes
    digest: Hash
    time_us: TimeUs


class ShardListReply(Reply, tag=23):
    """A page of the shard's keys in the order of their slots; `more` where a further page follows."""

    items: Annotated[list[Named], Meta(max_length=1024)]
    more: bool


class Put(Request, tag=30):
    """Mode primary: a writer's signed batch of headers, with salts and values, to be stored as it is. `forward`: pass
    it on to the rest of the group."""

    group: GroupId
    writer: Hash
    signature: Signature
    headers: Annotated[list[HeaderBytes], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]
    salted: Annotated[list[SaltedBytes], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]
    forward: bool


class PutReply(Reply, tag=31):
    """A code per header, 0 or one of `REFUSALS`; the time that a refusal speaks of, per header, empty where all are 0;
    why the first was denied, for people."""

    codes: Annotated[bytes, Meta(max_length=BATCH_COUNT_MAX)]
    times: Annotated[list[TimeUs], Meta(max_length=BATCH_COUNT_MAX)]
    detail: Annotated[str, Meta(max_length=400)] = ""


class Forward(Request, tag=32):
    """Mode primary: signed entries that another member of the group took."""

    bundles: Annotated[list[Bundle], Meta(min_length=1, max_length=BATCH_COUNT_MAX)]


class ForwardReply(Reply, tag=33):
    """A code per item, in order: 0 where the node has it, or something newer; else one of `REFUSALS`."""

    codes: Annotated[bytes, Meta(max_length=BATCH_COUNT_MAX)]


class Get(Request, tag=34):
    """Mode primary: the signed entries of these slots."""

    slots: Annotated[list[SlotBytes], Meta(min_length=1, max_length=READ_SLOTS_MAX)]


class GetReply(Reply, tag=35):
    """The entries of the first `answered` slots, those that there are; `behind` where the node has not recovered what
    it once held of them."""

    answered: Annotated[int, Meta(ge=0, le=READ_SLOTS_MAX)]
    bundles: Annotated[list[Bundle], Meta(max_length=READ_SLOTS_MAX)]
    behind: bool


class Vote(Request, tag=36):
    """Compare-and-set: vote for this header in this ballot. `signature` is its writer's intent; `votes`, where there
    are any, are q nodes' for this very header in `lock_ballot`, an earlier one."""

    group: GroupId
    header: HeaderBytes
    salted: SaltedBytes
    signature: Signature
    ballot: Ballot
    lock_ballot: BallotOrNone = b""
    votes: Votes = ()


class Lock(Request, tag=37):
    """Compare-and-set: q nodes voted for this header in this ballot; lock it, and grant it."""

    group: GroupId
    header: HeaderBytes
    salted: SaltedBytes
    signature: Signature
    ballot: Ballot
    votes: Votes


class Locked(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A header that is locked, with all that is needed to finish it: its value, its writer's intent, the ballot it is
    locked in and the q votes that show it."""

    header: HeaderBytes
    salted: SaltedBytes
    signature: Signature
    ballot: Ballot
    votes: Votes


class BallotReply(Reply, tag=38):
    """The answer to `Vote` and `Lock`: `code` of `BALLOT_CODES`, and where it is 0 the node's signature, or the proof
    that stands in its place (core/ballots.py). `time_us`: the floor (BELOW_FLOOR). `ballot`: the one promised (BUSY),
    or the one asked for, where another may do (BELOW_FLOOR). `entry`: what is current (STALE; None: nothing). `locked`:
    what is locked (LOCKED)."""

    code: int
    signature: Annotated[bytes, Meta(max_length=PROOF_BYTES_MAX)] = b""
    time_us: TimeUs = 0
    ballot: BallotOrNone = b""
    entry: Entry | None = None
    locked: Locked | None = None
    detail: Annotated[str, Meta(max_length=200)] = ""


class ExactReport(Request, tag=40):
    """A node that recovers asks a member of its group what a shard holds of exact namespaces, after this slot."""

    shard: Annotated[int, Meta(ge=0, lt=1 << 16)]
    after: SlotBytes = b""


class ExactHeld(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a node holds in a slot of an exact namespace: an entry, a lock, or both."""

    entry: Entry | None
    locked: Locked | None


class ExactReportReply(Reply, tag=41):
    """A page of the shard's slots of exact namespaces in the order of their bytes, and the shard's floor; `more` where
    a further page follows."""

    floor_us: TimeUs
    items: Annotated[list[ExactHeld], Meta(max_length=REPORT_ENTRIES_MAX)]
    more: bool


class Changes(Request, tag=50):
    """What was stored since number `after` of the feed `feed` (0: from now on), of the keys of a namespace that begin
    with `prefix`, or with `whole`, of that key?"""

    namespace: Annotated[bytes, Meta(min_length=1, max_length=NAMESPACE_BYTES_MAX)]
    prefix: Annotated[bytes, Meta(max_length=KEY_BYTES_MAX)]
    whole: bool
    feed: Annotated[int, Meta(ge=0, le=(1 << 62))]
    after: Annotated[int, Meta(ge=0, le=(1 << 62))]


class ChangesReply(Reply, tag=51):
    """The headers of what was stored, in its order, up to number `following` of the feed, where to ask from next.
    `lost`: what the asker knew is no longer kept, or another life's. `more` where a further page follows."""

    feed: Annotated[int, Meta(ge=1, le=(1 << 62))]
    following: Annotated[int, Meta(ge=0, le=(1 << 62))]
    headers: Annotated[list[HeaderBytes], Meta(max_length=CHANGES_MAX)]
    lost: bool
    more: bool


class Evidence(Request, tag=44):
    """Whom can you convict? From this one of the node's proofs on."""

    first: Annotated[int, Meta(ge=0, le=1 << 20)] = 0


class EvidenceReply(Reply, tag=45):
    """Some of the node's proofs of misbehaviour, as far as the asker may read the slots that they are about; `next` is
    where to go on, 0 where nothing follows."""

    proofs: Annotated[list[Proof], Meta(max_length=EVIDENCE_PROOFS_MAX)]
    next: Annotated[int, Meta(ge=0, le=1 << 20)]


class Witness(Request, tag=46):
    """What is current in this slot? Sign the answer, and this challenge with it."""

    slot: SlotBytes
    challenge: Hash


class WitnessReply(Reply, tag=47):
    """The start that the node speaks for, its shard's floor, the header of its current entry (empty: absent), and the
    signature over all of it (evidence.py)."""

    incarnation: Annotated[bytes, Meta(min_length=16, max_length=16)]
    floor_us: TimeUs
    header: HeaderBytes
    signature: Signature


AnyRequest = (
    Prepare
    | Commit
    | Read
    | ReadFull
    | Report
    | Ping
    | Outline
    | Fields
    | Scan
    | ShardSums
    | ShardList
    | Changes
    | Evidence
    | Witness
    | Put
    | Forward
    | Get
    | Vote
    | Lock
    | ExactReport
    | Follow
    | SealEpoch
)
AnyReply = (
    PrepareReply
    | CommitReply
    | ReadReply
    | ReadFullReply
    | ReportReply
    | Reject
    | Pong
    | OutlineReply
    | FieldsReply
    | ScanReply
    | ShardSumsReply
    | ShardListReply
    | ChangesReply
    | EvidenceReply
    | WitnessReply
    | PutReply
    | ForwardReply
    | GetReply
    | BallotReply
    | ExactReportReply
    | FollowReply
    | SealReply
)


def slots_read_by(request: Request) -> list[bytes]:
    """The slots whose entries a request asks for; none for one that reads no entries."""
    if isinstance(request, Read | ReadFull | Get):
        return request.slots
    if isinstance(request, Vote | Lock):
        return [header_slot(request.header)]  # What is current or locked there may come back.
    return [request.slot] if isinstance(request, Outline | Fields | Witness) else []


#: request -> the reply that answers it; `Reject` may answer any.
TABLE: Final[dict[type[Request], type[Reply]]] = {
    Prepare: PrepareReply,
    Commit: CommitReply,
    Read: ReadReply,
    ReadFull: ReadFullReply,
    Report: ReportReply,
    Ping: Pong,
    Outline: OutlineReply,
    Fields: FieldsReply,
    Scan: ScanReply,
    ShardSums: ShardSumsReply,
    ShardList: ShardListReply,
    Changes: ChangesReply,
    Evidence: EvidenceReply,
    Witness: WitnessReply,
    Put: PutReply,
    Forward: ForwardReply,
    Get: GetReply,
    Vote: BallotReply,
    Lock: BallotReply,
    ExactReport: ExactReportReply,
    Follow: FollowReply,
    SealEpoch: SealReply,
}
