// BullMQ, the queue that many choose in node; Fastify receives.
//
// Measured: accepts 10,900/s. Drains 6,900 to 8,900/s with a concurrency of 200, 4,600/s of 10, 7,200 to 8,400/s of 50,
// 6,900 to 8,600/s of 500; ioredis with enableAutoPipelining drains 4,500 to 5,200/s.

import { readFileSync, writeSync } from 'node:fs'
import { Queue, Worker } from 'bullmq'
import Fastify from 'fastify'

const NAME = 'notifications'
const HOST = '127.0.0.1'
const count = Number(process.env.BENCH_COUNT ?? 0)
const connection = { host: HOST, port: Number(process.env.BENCH_REDIS) }
const defaultJobOptions = { removeOnComplete: true }

async function serve() {
  const queue = new Queue(NAME, { connection, defaultJobOptions })
  const app = Fastify()
  app.addContentTypeParser('*', { parseAs: 'string' }, (request, body, done) => done(null, body))
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => done(null, body))
  app.post('/webhook', async (request, reply) => {
    await queue.add('notification', request.body)
    return reply.send()
  })
  process.once('SIGTERM', async () => {
    await app.close()
    await queue.close()
  })
  await app.listen({ host: HOST, port: Number(process.env.BENCH_PORT) })
}

async function load() {
  const queue = new Queue(NAME, { connection, defaultJobOptions })
  const lines = readFileSync(process.env.BENCH_BODIES, 'utf8').trimEnd().split('\n')
  for (let start = 0; start < count; start += 1000) {
    const numbers = Array.from({ length: Math.min(1000, count - start) }, (_, n) => start + n)
    await queue.addBulk(numbers.map((n) => ({ name: 'notification', data: lines[n % lines.length] })))
  }
  await queue.close()
}

function work() {
  let handled = 0
  let first
  const take = async (job) => {
    handle(job.data)
    handled += 1
    if (handled === 1) first = now()
    if (handled === count) {
      writeSync(1, JSON.stringify({ handled, first, last: now() }) + '\n')
      setImmediate(() => worker.close())
    }
  }
  const worker = new Worker(NAME, take, { connection, concurrency: 200 })
  worker.on('error', console.error)
  process.once('SIGTERM', () => worker.close())
}

// As events.py: the whole holds the events in the On-Premises form, each change in the Cloud form.
function handle(body) {
  const notification = JSON.parse(body)
  const values = notification.entry?.flatMap((entry) => entry.changes.map((change) => change.value)) ?? [notification]
  for (const value of values) {
    value.messages?.forEach(nothing)
    value.statuses?.forEach(nothing)
  }
}

function nothing(event) {}

// The clock that Python calls time.monotonic().
function now() {
  return Number(process.hrtime.bigint()) / 1e9
}

await { serve, load, work }[process.argv[2]]()
