-- Merges a list of statuses: one statement, one round trip and one commit for all of them.
--
-- Several statuses of a message become one row first, because a row can be inserted or updated once by a statement. Two
-- workers never wait for each other in a circle, because each locks its rows in order of the key. A row that is there
-- keeps the higher state and the earlier times.
INSERT INTO deliveries AS known (
  message, participant, business, recipient, state, sent_at, delivered_at, failed_at, read_at, played_at, code
)
SELECT
  message,
  participant,
  max(business),
  max(recipient),
  max(state),
  min(at) FILTER (WHERE state = 'sent'),
  min(at) FILTER (WHERE state = 'delivered'),
  min(at) FILTER (WHERE state = 'failed'),
  min(at) FILTER (WHERE state = 'read'),
  min(at) FILTER (WHERE state = 'played'),
  min(code)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::delivery_state[], $6::timestamptz[], $7::integer[])
  AS said (message, participant, business, recipient, state, at, code)
GROUP BY message, participant
ORDER BY message, participant
ON CONFLICT (message, participant) DO UPDATE SET
  business = coalesce(known.business, excluded.business),
  recipient = coalesce(known.recipient, excluded.recipient),
  state = greatest(known.state, excluded.state),
  sent_at = least(known.sent_at, excluded.sent_at),  -- the one of two that is not NULL
  delivered_at = least(known.delivered_at, excluded.delivered_at),
  failed_at = least(known.failed_at, excluded.failed_at),
  read_at = least(known.read_at, excluded.read_at),
  played_at = least(known.played_at, excluded.played_at),
  code = least(known.code, excluded.code)
