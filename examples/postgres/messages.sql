-- Inserts a list of messages, those that are not there yet; in order of the key, as statuses.sql does.
INSERT INTO messages (id, business, contact, direction, type, text, reply_to, sent_at, received_at, raw)
SELECT *
FROM unnest(
  $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
  $9::timestamptz[], $10::json[]
) AS said (id)
ORDER BY id
ON CONFLICT (id) DO NOTHING
