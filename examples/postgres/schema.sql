-- The tables of examples/postgres. Run it once.
BEGIN;

-- Enums are compared in this order, so greatest() of two states is the one that a message got to. Failed is the end of
-- what was not read; what was read has arrived after all.
CREATE TYPE delivery_state AS ENUM ('sent', 'delivered', 'failed', 'read', 'played');

-- How far each message got that the business sent. In a group each participant has a row.
CREATE TABLE deliveries (
  message text NOT NULL,
  participant text NOT NULL DEFAULT '',  -- empty outside of groups: NULLs would not be equal in the key
  business text,
  recipient text,
  state delivery_state NOT NULL,
  sent_at timestamptz,  -- for each state its earliest time: neither order nor repeats of statuses change a row
  delivered_at timestamptz,
  failed_at timestamptz,
  read_at timestamptz,
  played_at timestamptz,
  code integer,  -- why it failed
  -- By this key alone rows are found and merged. No column that a status changes is in an index, and a fifth of each page
  -- is left free: so PostgreSQL writes a new state into the same page and no index (a HOT update).
  PRIMARY KEY (message, participant)
) WITH (fillfactor = 80);

-- What contacts wrote, and the business. A repeat of a message changes nothing.
CREATE TABLE messages (
  id text PRIMARY KEY,
  business text,
  contact text,
  direction text NOT NULL,  -- in, out
  type text,
  text text,
  reply_to text,
  sent_at timestamptz,
  received_at timestamptz NOT NULL,
  raw json NOT NULL  -- json, not jsonb: kept as it came, which costs less than to take it apart, and may hold \u0000
);

-- For a contact's conversation in the order of time.
CREATE INDEX messages_of_contact ON messages (business, contact, sent_at);

COMMIT;
