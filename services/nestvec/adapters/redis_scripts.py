"""The Lua that makes writes atomic: no modules, no flags, Redis and Valkey alike.

Two laws of the server's scripting carry the weight here:

- A script that has written is never stopped for lack of memory. Only its *first* write is checked
  against `maxmemory`; so a script whose first write may be refused fails before anything changed.
- An error in the middle does not undo what was written. So every script reads, and refuses,
  before its first write.

Keys derived from KEYS by a script share the hash tag of KEYS[1], which is what a cluster needs.
Source: Redis scripting documentation, "Scripts with errors and out of memory", and the source's
scriptVerifyOOM (src/script.c).
"""

from __future__ import annotations

import hashlib


class Script:
    """Lua text and the digest by which a server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# KEYS: sequence, id map. ARGV: vector prefix, payload prefix, then id, vector, payload a record.
# Returns new and replaced sequence numbers in turn, -1 where nothing was replaced. An id map value
# that cannot be read (see redis_keys.locate) counts as nothing: writing the document again heals.
PUT = Script(
    """
local vector, payload = ARGV[1], ARGV[2]
local replaced = {}
for at = 3, #ARGV, 3 do
  local value = redis.call('HGET', KEYS[2], ARGV[at])
  local live = value and #value <= 15 and string.match(value, '^s(%d+)$')
  replaced[at] = live and tonumber(live) or -1
end
local sequence = redis.call('INCRBY', KEYS[1], (#ARGV - 2) / 3) - (#ARGV - 2) / 3
local answer = {}
for at = 3, #ARGV, 3 do
  sequence = sequence + 1
  local name = string.format('%.0f', sequence)
  redis.call('SET', vector .. name, ARGV[at + 1])
  redis.call('SET', payload .. name, ARGV[at + 2])
  redis.call('HSET', KEYS[2], ARGV[at], 's' .. name)
  answer[#answer + 1] = sequence
  answer[#answer + 1] = replaced[at]
end
return answer
"""
)

# KEYS: format, collections, assets. ARGV: format version, name, record, then name, bytes an asset.
# Returns 1, 0 when the name is taken, or the namespace's format when that is another one.
CREATE = Script(
    """
local format = redis.call('GET', KEYS[1])
if format and format ~= ARGV[1] then return format end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
for at = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""
)

# KEYS: collections, dropping, assets. ARGV: name, generation, "name:generation".
# Another generation of the same name is left alone. HDEL comes first: it is never refused for lack
# of memory, and after it SADD is not either, so that a full store can be emptied.
LEAVE = Script(
    """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and cjson.decode(record).generation == tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[3])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
"""
)
