// BullMQ with handlers that wait: 100 at a time, jobs removed when they are done. As the Python peers in
// ../waiting/common.py: `work`, or `post FILE`, which enqueues a schedule and says when each call began.

import { openSync, readFileSync, writeSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { Queue, Worker } from 'bullmq'

const NAME = 'notifications'
const CALLS = 100
const connection = { host: '127.0.0.1', port: Number(process.env.BENCH_REDIS) }
const marks = openSync(process.env.BENCH_MARKS, 'r+')

function work() {
  const worker = new Worker(NAME, wait, { connection, concurrency: 100 })
  worker.on('error', console.error)
}

async function wait(job) {
  const message = JSON.parse(job.data).entry[0].changes[0].value.messages[0]
  const number = Number(`0x${message.id.slice(4)}`)
  mark(2 * number)
  await setTimeout(Number(message.text.body))
  mark(2 * number + 1)
}

function mark(place) {
  writeSync(marks, new Float64Array([now()]), 0, 8, 8 * place)
}

async function post() {
  const queue = new Queue(NAME, { connection, defaultJobOptions: { removeOnComplete: true } })
  const posted = []
  const calls = new Set()
  const start = now()
  for (const line of readFileSync(process.argv[3], 'utf8').trimEnd().split('\n')) {
    const space = line.indexOf(' ')
    const early = start + Number(line.slice(0, space)) - now()
    if (early > 0) await setTimeout(early * 1000)
    if (calls.size >= CALLS) await Promise.race(calls)
    posted.push(now())
    const call = queue.add('notification', line.slice(space + 1)).then(() => calls.delete(call))
    calls.add(call)
  }
  await Promise.all(calls)
  await queue.close()
  console.log(JSON.stringify({ posted }))
}

// The clock that Python calls time.monotonic().
function now() {
  return Number(process.hrtime.bigint()) / 1e9
}

await { work, post }[process.argv[2]]()
