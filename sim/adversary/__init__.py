"""The adversary: Byzantine nodes (nodes.py) and writers (writers.py), with what they share (conspiracy.py).

Its powers: it sees every message that is sent to one of its own processes, knows true time and the configuration, sends
anything to anyone under its own processes' names, and signs with its own keys. All its processes share what they know.
It cannot sign with another's key: it is given key objects of its own only, and nothing here can reach another
(`sim.crypto.Suite` and `Ledger`, from which keys come, are not imported in this package; a test holds that). It cannot
read, stop or alter what correct processes send to each other, beyond what the network's faults do for anyone.
"""
