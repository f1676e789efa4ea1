// What a user does, by openapi-fetch with the types that openapi-typescript makes.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./minute_credit.js";

type Failure = components["schemas"]["ErrorBody"];
type Code = components["schemas"]["ErrorCode"];

const { URL: baseUrl, BROKE_TOKEN: broke } = process.env;

function client(token?: string) {
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  return createClient<paths>({ baseUrl, headers });
}

async function refused(status: number, code: Code, call: Promise<{ error?: Failure; response: Response }>) {
  const { error, response } = await call;
  assert.equal(response.status, status);
  assert.equal(error?.code, code);
}

async function done<T>(call: Promise<{ data?: T; error?: Failure }>): Promise<T> {
  const { data, error } = await call;
  assert(data, JSON.stringify(error));
  return data;
}

const nobody = client();
const body = { email: "openapi-fetch@example.com", password: "correct horse" };
const signedUp = await done(nobody.POST("/api/auth/signup", { body }));
await refused(409, "email_taken", nobody.POST("/api/auth/signup", { body }));
await refused(422, "invalid_email", nobody.POST("/api/auth/signup", { body: { ...body, email: "nobody" } }));
await refused(401, "token_required", nobody.GET("/api/sessions/credits"));
await refused(401, "invalid_token", client("nonsense").GET("/api/sessions/credits"));
await refused(402, "insufficient_credits", client(broke).POST("/api/sessions/start"));

const user = client(signedUp.token);
await refused(422, "invalid_field", user.GET("/api/sessions", { params: { query: { limit: 0 } } }));
const active = await done(user.GET("/api/sessions/active"));
for (const idle of [signedUp.user, await done(user.GET("/api/auth/me")), await done(user.GET("/api/sessions/credits")), active]) {
  assert.equal(idle.credits, 100);
  assert.equal(idle.sessionId, undefined);
}
assert.equal(active.active, false);
await refused(409, "no_active_session", user.POST("/api/sessions/stop"));

const start = (key: string) =>
  user.POST("/api/sessions/start", { params: { header: { "Idempotency-Key": key } } });
const started = await done(start("first"));
assert.deepEqual(await done(start("first")), started);
await refused(409, "session_active", start("second"));
const live = await done(user.GET("/api/sessions/credits"));
assert.equal(live.sessionId, started.sessionId);
assert(live.depletesAt && live.depletesAt > live.asOf);
const stopped = await done(user.POST("/api/sessions/stop"));
assert.deepEqual([stopped.creditsConsumed, stopped.finalCredits], [1, 99]);
await done(start("third"));
await done(user.POST("/api/sessions/stop"));

const sessions: number[] = [];
for (let cursor: string | undefined | null; cursor !== null; ) {
  const query = { limit: 1, cursor };
  const page = await done(user.GET("/api/sessions", { params: { query } }));
  sessions.push(...page.sessions.map((session) => session.creditsConsumed));
  cursor = page.nextCursor;
}
assert.deepEqual(sessions, [1, 1]);
const amounts: number[] = [];
for (let cursor: string | undefined | null; cursor !== null; ) {
  const query = { limit: 1, cursor };
  const page = await done(user.GET("/api/ledger", { params: { query } }));
  amounts.push(...page.entries.map((entry) => entry.amount));
  cursor = page.nextCursor;
}
assert.deepEqual(amounts, [-1, -1, 100]);
const path = { id: started.sessionId };
const record = await done(user.GET("/api/sessions/{id}", { params: { path } }));
assert.equal(record.endReason, "user");
