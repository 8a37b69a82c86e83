"""The Lua that makes writes atomic: no modules, no flags, Redis and Valkey alike.

Four laws of the server's scripting carry the weight here:

- A script that has written is never stopped for lack of memory. Only its *first* write is checked
  against `maxmemory`; so a script whose first write may be refused fails before anything changed.
- What frees nothing at once counts as a write all the same. So a script that must work in a full
  store begins by deleting something that is not there.
- In a cluster, a key that is not there may be refused while its slot is moving away, in the middle
  of a script too. So one that makes keys looks at one of them before its first write.
- An error in the middle does not undo what was written. So every script reads, and refuses,
  before its first write, and what could fail otherwise (XADD, on a log that is damaged) is first.

Keys derived from KEYS by a script share the hash tag of KEYS[1], which is what a cluster needs.
Source: Redis scripting documentation, "Scripts with errors and out of memory", and the source's
scriptVerifyOOM (src/script.c).

Sequences (48 bits) fit Lua's numbers. Versions (63 bits) do not, and travel as 8 bytes, big-endian.
"""

from __future__ import annotations

import hashlib


class Script:
    """Lua text and the digest by which a server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# Bytes are compared one by one: Lua's < on strings follows the server's locale.
_VALUES = r"""
local function newer(one, other)
  for at = 1, 8 do
    local x, y = string.byte(one, at), string.byte(other, at)
    if x ~= y then return x > y end
  end
  return false
end
local NEVER = string.rep('\0', 8)
local function read_entry(value)
  if value and #value == 15 and string.byte(value) == 118 then
    return (struct.unpack('>I6', value, 2)), string.sub(value, 8)
  end
  return 0, NEVER
end
local function read_tombstone(value)
  return value and #value == 14 and string.sub(value, 7) or NEVER
end
"""
_LOG = r"""
local EPOCH = 4294967296
local function name_of(sequence) return string.format('%.0f', sequence) end
local function entry_id(sequence)
  local count = sequence % EPOCH
  return string.format('%.0f-%.0f', (sequence - count) / EPOCH, count)
end
local function current(counter, epoch)
  local last = tonumber(redis.call('GET', counter) or 0)
  local count = last % EPOCH
  return math.max(epoch, (last - count) / EPOCH) * EPOCH + count
end
"""

# KEYS: sequence, id map, tombstones, log. ARGV: vector prefix, payload prefix, "1" where a record
# must be newer than what stands (else it may be as new), then id, version, vector, payload a
# record, then the epoch. Returns two values a record: new and replaced sequence (-1 where nothing
# was replaced), or -1 and the version that stands where that refuses it. An id map value that
# cannot be read counts as nothing: writing the document again heals.
PUT = Script(
    _VALUES
    + _LOG
    + r"""
local vector, payload, newer_only = ARGV[1], ARGV[2], ARGV[3] == '1'
local start = current(KEYS[1], tonumber(ARGV[#ARGV]))
local buried = redis.call('HLEN', KEYS[3]) > 0
local answer, accepted, replaced = {}, {}, {}
for at = 4, #ARGV - 1, 4 do
  local old, newest = read_entry(redis.call('HGET', KEYS[2], ARGV[at]))
  if buried then
    local deleted = read_tombstone(redis.call('HGET', KEYS[3], ARGV[at]))
    if newer(deleted, newest) then newest = deleted end
  end
  if newer(newest, ARGV[at + 1]) or (newer_only and newest == ARGV[at + 1]) then
    answer[#answer + 1] = -1
    answer[#answer + 1] = newest
  else
    accepted[#accepted + 1] = at
    replaced[#accepted] = struct.pack('>I6', old)
    answer[#answer + 1] = start + #accepted
    answer[#answer + 1] = old > 0 and old or -1
  end
end
if #accepted == 0 then return answer end
local last = start + #accepted
redis.call('EXISTS', vector .. name_of(last))
redis.call('XADD', KEYS[4], entry_id(last), 'b', 'p' .. table.concat(replaced))
redis.call('SET', KEYS[1], name_of(last))
for nth, at in ipairs(accepted) do
  local name = name_of(start + nth)
  redis.call('SET', vector .. name, ARGV[at + 2])
  redis.call('SET', payload .. name, ARGV[at + 3])
  redis.call('HSET', KEYS[2], ARGV[at], 'v' .. struct.pack('>I6', start + nth) .. ARGV[at + 1])
  if buried then redis.call('HDEL', KEYS[3], ARGV[at]) end
end
return answer
"""
)

# KEYS: sequence, id map, tombstones, log. ARGV: 6 bytes milliseconds, then id, version and "1" or
# "0" (remember) a deletion, then the epoch. Returns three values a deletion: the sequence deleted
# or -1, its place in the log or -1, and the version that stands now. An id map value that cannot be
# read is deleted too. Deleting a live document is never refused for lack of memory; a mere
# tombstone is. Where nothing is left to delete, an earlier try may have done it and not been
# confirmed by replicas: the counter is written as it is, so that WAIT has something to wait for.
DELETE = Script(
    _VALUES
    + _LOG
    + r"""
local start = current(KEYS[1], tonumber(ARGV[#ARGV]))
local answer, taken, told, frees = {}, {}, {}, false
for at = 2, #ARGV - 1, 3 do
  local id, version = ARGV[at], ARGV[at + 1]
  local value = redis.call('HGET', KEYS[2], id)
  local old, written = read_entry(value)
  local deleted = read_tombstone(redis.call('HGET', KEYS[3], id))
  local unknown = not value and ARGV[at + 2] == '1' and newer(version, deleted)
  local newest = newer(deleted, written) and deleted or written
  if unknown or (value and not newer(written, version)) then
    frees = frees or value
    if newer(version, newest) then newest = version end
    taken[#taken + 1] = { id, newest }
    told[#told + 1] = struct.pack('>I6', old) .. version .. struct.pack('>I2', #id) .. id
    answer[#answer + 1] = old > 0 and old or -1
    answer[#answer + 1] = start + #taken
  else
    answer[#answer + 1] = -1
    answer[#answer + 1] = -1
  end
  answer[#answer + 1] = newest
end
if #taken == 0 then
  local counter = redis.call('GET', KEYS[1])
  if counter then
    redis.call('HDEL', KEYS[2], '')
    redis.call('SET', KEYS[1], counter)
  end
  return answer
end
if frees then redis.call('HDEL', KEYS[2], '') end
redis.call('XADD', KEYS[4], entry_id(start + #taken), 'b', 'd' .. table.concat(told))
redis.call('SET', KEYS[1], name_of(start + #taken))
for _, one in ipairs(taken) do
  redis.call('HDEL', KEYS[2], one[1])
  redis.call('HSET', KEYS[3], one[1], ARGV[1] .. one[2])
end
return answer
"""
)

# KEYS: log, tidied, sequence. ARGV: vector prefix, payload prefix, up to which sequence, how many
# entries to keep, how many entries to read, how many documents to stop after. Returns how many
# documents were freed, and 1 when there is more to do. Counts go up by one or more an entry, so
# that their difference says how many entries may not be freed yet.
TIDY = Script(
    _LOG
    + r"""
local vector, payload, upto = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at = tonumber(redis.call('GET', KEYS[2]) or 0)
local entries = redis.call(
  'XRANGE', KEYS[1], '(' .. entry_id(at), entry_id(upto), 'COUNT', ARGV[5])
redis.call('UNLINK', vector .. '0')
local freed, seen, more = 0, 0, #entries == tonumber(ARGV[5])
local function free(sequence)
  seen = seen + 1
  if sequence > 0 then
    local name = name_of(sequence)
    if redis.call('UNLINK', vector .. name, payload .. name) > 0 then freed = freed + 1 end
  end
end
for nth, entry in ipairs(entries) do
  local body = entry[2][2]
  if string.sub(body, 1, 1) == 'p' then
    for place = 2, #body - 5, 6 do free((struct.unpack('>I6', body, place))) end
  elseif string.sub(body, 1, 1) == 'd' then
    local place = 2
    while place + 15 <= #body do
      free((struct.unpack('>I6', body, place)))
      place = place + 16 + struct.unpack('>I2', body, place + 14)
    end
  end
  local epoch, count = string.match(entry[1], '^(%d+)-(%d+)$')
  at = tonumber(epoch) * EPOCH + tonumber(count)
  if seen >= tonumber(ARGV[6]) then
    more = more or nth < #entries
    break
  end
end
if #entries > 0 then redis.call('SET', KEYS[2], name_of(at)) end
local unfreed = (tonumber(redis.call('GET', KEYS[3]) or 0) - at) % EPOCH
redis.call('XTRIM', KEYS[1], 'MAXLEN', name_of(math.max(tonumber(ARGV[4]), unfreed)))
return { freed, more and 1 or 0 }
"""
)

# KEYS: tombstones. ARGV: cursor, milliseconds, how many fields to look at. Returns the next cursor
# and how many were forgotten: those made before, and those that cannot be read.
EXPIRE = Script(
    r"""
local step = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[3])
local old = 0
for at = 1, #step[2], 2 do
  local value = step[2][at + 1]
  if #value ~= 14 or struct.unpack('>I6', value) < tonumber(ARGV[2]) then
    old = old + redis.call('HDEL', KEYS[1], step[2][at])
  end
end
return { step[1], old }
"""
)

# KEYS: sequence, id map, tidied. ARGV: vector prefix, payload prefix, position, then id, id map
# value, "1" or "0" for whether there is a vector and then a payload, vector, payload a document.
# Of two documents of one id (a scan may name one twice) the later sequence stays.
RESTORE = Script(
    _VALUES
    + _LOG
    + r"""
local vector, payload = ARGV[1], ARGV[2]
local position = math.max(tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[1]) or 0))
redis.call('HLEN', KEYS[2])
redis.call('SET', KEYS[1], name_of(position))
redis.call('SET', KEYS[3], name_of(position))
for at = 4, #ARGV, 5 do
  local old = read_entry(redis.call('HGET', KEYS[2], ARGV[at]))
  local new = read_entry(ARGV[at + 1])
  if new >= old then
    local name = name_of(new)
    if old > 0 then redis.call('UNLINK', vector .. name_of(old), payload .. name_of(old)) end
    if string.sub(ARGV[at + 2], 1, 1) == '1' then
      redis.call('SET', vector .. name, ARGV[at + 3])
    end
    if string.sub(ARGV[at + 2], 2, 2) == '1' then
      redis.call('SET', payload .. name, ARGV[at + 4])
    end
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  end
end
return 1
"""
)

# KEYS: stream, then chunks of digests. ARGV: first offset, next offset, seconds to keep, then where
# in the chunk and what, a chunk. Returns "" when done, else the offset that was expected.
ADVANCE = Script(
    r"""
local expected = redis.call('HGET', KEYS[1], 'next')
if expected and expected ~= ARGV[1] then return expected end
redis.call('HSET', KEYS[1], 'next', ARGV[2])
redis.call('HSETNX', KEYS[1], 'first', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
for nth = 2, #KEYS do
  redis.call('SETRANGE', KEYS[nth], ARGV[2 * nth], ARGV[2 * nth + 1])
  redis.call('EXPIRE', KEYS[nth], ARGV[3])
end
return ''
"""
)

# KEYS: strings. ARGV: the last byte wanted of each. Returns one beginning a key, empty where there
# is no value. Values are often thousands of bytes of text that a reader of beginnings has no use
# for.
HEADS = Script(
    r"""
local heads = {}
for at, key in ipairs(KEYS) do
  heads[at] = redis.call('GETRANGE', key, 0, ARGV[1])
end
return heads
"""
)
