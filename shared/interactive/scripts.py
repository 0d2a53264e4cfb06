"""The scripts by which asks enter and leave the lane: each is one step for everybody who looks."""

from __future__ import annotations

# KEYS: able, stream, bytes. ARGV: ask, size, reply_to, deadline, max_waiting, max_waiting_bytes, group.
# -> entry id, or "no-worker", "full". Asks past their deadline make room, oldest first; looked at only when there is none.
ENTER = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if redis.call('ZCOUNT', KEYS[1], now, '+inf') == 0 then return 'no-worker' end
local waiting = redis.call('XLEN', KEYS[2])
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
local function is_full()
    return waiting >= tonumber(ARGV[5]) or (waiting > 0 and bytes + ARGV[2] > tonumber(ARGV[6]))
end
for _ = 1, 100 do
    if not is_full() then break end
    local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not head or tonumber(head[2][8]) >= now then break end
    redis.call('XACK', KEYS[2], ARGV[7], head[1])
    redis.call('XDEL', KEYS[2], head[1])
    waiting = waiting - 1
    bytes = redis.call('DECRBY', KEYS[3], head[2][6])
end
if waiting == 0 then redis.call('DEL', KEYS[3]) end
if is_full() then return 'full' end
redis.call('INCRBY', KEYS[3], ARGV[2])
return redis.call('XADD', KEYS[2], '*', 'ask', ARGV[1], 'to', ARGV[3], 'size', ARGV[2], 'until', ARGV[4])
"""

# KEYS: stream, bytes. ARGV: group, entry id, size. The bytes shrink only if it was this call that took the ask out.
LEAVE = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[3]) end
"""

# KEYS: answers, then stream and bytes of each ask. ARGV: group, expiry in s, then entry id, size and answer of each. All that one
# web process gets comes to it in one piece: each push would wake it once.
ANSWER = """
local answers = {}
for number = 1, (#KEYS - 1) / 2 do
    local stream, entry = KEYS[2 * number], ARGV[3 * number]
    answers[number] = ARGV[3 * number + 2]
    redis.call('XACK', stream, ARGV[1], entry)
    if redis.call('XDEL', stream, entry) == 1 then redis.call('DECRBY', KEYS[2 * number + 1], ARGV[3 * number + 1]) end
end
redis.call('RPUSH', KEYS[1], unpack(answers))
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: stream, answers. ARGV: group, entry id, our consumer, what the asker is told, expiry in s. The ask waits anew, for any
# worker, if it is still ours; its new entry id follows what is told.
GIVE_BACK = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1, ARGV[3]) == 0 then return end
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if not found then return end
redis.call('XDEL', KEYS[1], ARGV[2])
local entry = redis.call('XADD', KEYS[1], '*', unpack(found[2]))
redis.call('RPUSH', KEYS[2], ARGV[4] .. entry)
redis.call('EXPIRE', KEYS[2], ARGV[5])
"""

# KEYS: stream. ARGV: entry ids. -> 1 or 0 for each; the asks themselves, which may be large, stay where they are.
ARE_THERE = """
local there = {}
for position, entry in ipairs(ARGV) do there[position] = #redis.call('XRANGE', KEYS[1], entry, entry) end
return there
"""

# KEYS: stream. ARGV: group, dead consumer, our consumer. -> entries, ours from now on. One script, so that two workers
# that find the same dead one never both get an ask of its. The consumer goes once it holds nothing (what it holds would go too).
TAKE_OVER = """
local ids = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 128, ARGV[2])) do ids[#ids + 1] = pending[1] end
local taken = {}
if #ids > 0 then taken = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, unpack(ids)) end
if #ids < 128 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return taken
"""
