"""The cluster simulator: drives quorumcache.core and quorumcache.wire on virtual time.

One seed decides everything. Never imports quorumcache.net, client or node, and nothing shipped imports this.
"""
