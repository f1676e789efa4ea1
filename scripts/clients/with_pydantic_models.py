"""What a user does, with the models that datamodel-code-generator makes (pydantic) and urllib."""

import json
import os
import urllib.error
import urllib.request

import minute_credit_models as made

url, broke = os.environ["URL"], os.environ["BROKE_TOKEN"]


def call(model, method, path, token=None, body=None, key=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["Idempotency-Key"] = key
    data = body.model_dump_json().encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as reply:
        return model.model_validate_json(reply.read())


def refused(status, code, *arguments, **options):
    try:
        call(made.ErrorBody, *arguments, **options)
    except urllib.error.HTTPError as refusal:
        told = made.ErrorBody.model_validate_json(refusal.read())
        assert (refusal.code, told.code.value) == (status, code), told
    else:
        raise SystemExit(f"{arguments} was not refused with {status}")


def pages(model, items, path, token):
    cursor, found = "", []
    while True:
        page = call(model, "GET", f"{path}?limit=1{cursor}", token)
        found += getattr(page, items)
        if page.nextCursor is None:
            return found
        cursor = f"&cursor={page.nextCursor}"


new = made.EmailAndPassword(email="pydantic@example.com", password="correct horse")
signed_up = call(made.Authenticated, "POST", "/api/auth/signup", body=new)
token = signed_up.token
refused(409, "email_taken", "POST", "/api/auth/signup", body=new)
refused(422, "invalid_field", "GET", "/api/ledger?limit=0", token)
refused(401, "token_required", "GET", "/api/sessions/credits")
refused(401, "invalid_token", "GET", "/api/sessions/credits", "nonsense")
refused(402, "insufficient_credits", "POST", "/api/sessions/start", broke)

for idle in (
    signed_up.user,
    call(made.User, "GET", "/api/auth/me", token),
    call(made.LiveBalance, "GET", "/api/sessions/credits", token),
    call(made.Active, "GET", "/api/sessions/active", token),
):
    assert idle.credits.root == 100 and idle.sessionId is None and idle.depletesAt is None, idle
refused(409, "no_active_session", "POST", "/api/sessions/stop", token)

started = call(made.SessionStarted, "POST", "/api/sessions/start", token, key="first")
assert call(made.SessionStarted, "POST", "/api/sessions/start", token, key="first") == started
refused(409, "session_active", "POST", "/api/sessions/start", token, key="second")
live = call(made.LiveBalance, "GET", "/api/sessions/credits", token)
assert live.sessionId == started.sessionId and live.depletesAt.root > live.asOf.root, live
assert call(made.Active, "GET", "/api/sessions/active", token).active
stopped = call(made.SessionStopped, "POST", "/api/sessions/stop", token)
assert stopped.creditsConsumed.root == 1 and stopped.finalCredits.root == 99, stopped
call(made.SessionStarted, "POST", "/api/sessions/start", token)
call(made.SessionStopped, "POST", "/api/sessions/stop", token)

history = pages(made.SessionPage, "sessions", "/api/sessions", token)
assert [session.creditsConsumed.root for session in history] == [1, 1]
record = call(made.SessionRecord, "GET", f"/api/sessions/{started.sessionId.root}", token)
assert record.endReason == made.EndReason.user, record
ledger = pages(made.LedgerPage, "entries", "/api/ledger", token)
assert [entry.amount.root for entry in ledger] == [-1, -1, 100]

# The messages of the stream are told apart by their type.
request = urllib.request.Request(url + "/api/stream", headers={"Authorization": f"Bearer {token}"})
with urllib.request.urlopen(request) as stream:
    first = next(line for line in stream if line.startswith(b"data: "))
message = made.StreamMessage.model_validate(json.loads(first[6:])).root
assert isinstance(message, made.CreditUpdateMessage) and message.credits.root == 98, message
