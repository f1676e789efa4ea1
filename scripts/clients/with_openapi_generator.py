"""What a user does, by the client that openapi-generator makes (python)."""

import os
import sys

import minute_credit_client as made
from minute_credit_client.exceptions import ApiException

url, broke = os.environ["URL"], os.environ["BROKE_TOKEN"]


def apis(token=None):
    client = made.ApiClient(made.Configuration(host=url, access_token=token))
    return made.AccountsApi(client), made.SessionsApi(client), made.HistoryApi(client)


def refused(status, code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as refusal:
        assert refusal.status == status, refusal
        assert isinstance(refusal.data, made.ErrorBody), refusal
        assert refusal.data.code.value == code, refusal
        assert refusal.data.error.endswith("."), refusal
    else:
        sys.exit(f"{call} was not refused with {status}")


def pages(call, items, limit=1):
    cursor, found = None, []
    while True:
        page = call(limit=limit, cursor=cursor)
        assert len(getattr(page, items)) <= limit
        found += getattr(page, items)
        cursor = page.next_cursor
        if cursor is None:
            return found


accounts, sessions, _ = apis()
new = made.EmailAndPassword(email="openapi-generator@example.com", password="correct horse")
signed_up = accounts.sign_up(new)
refused(409, "email_taken", accounts.sign_up, new)
refused(422, "invalid_email", accounts.sign_up, made.EmailAndPassword(email="nobody", password="correct horse"))
refused(401, "token_required", sessions.credits)
refused(401, "invalid_token", apis("nonsense")[1].credits)
refused(402, "insufficient_credits", apis(broke)[1].start_session)

accounts, sessions, history = apis(signed_up.token)
for idle in (signed_up.user, accounts.me(), sessions.credits(), sessions.active_session()):
    assert idle.credits == 100 and idle.session_id is None and idle.depletes_at is None, idle
assert sessions.active_session().active is False
refused(409, "no_active_session", sessions.stop_session)

started = sessions.start_session(idempotency_key="first")
assert sessions.start_session(idempotency_key="first") == started
refused(409, "session_active", sessions.start_session, idempotency_key="second")
live = sessions.credits()
assert live.session_id == started.session_id and live.depletes_at > live.as_of, live
assert sessions.active_session().active and accounts.me().session_id == started.session_id
stopped = sessions.stop_session()
assert stopped.credits_consumed == 1 and stopped.final_credits == 99, stopped
sessions.start_session()
sessions.stop_session()

assert [session.credits_consumed for session in pages(history.sessions, "sessions")] == [1, 1]
assert history.session(started.session_id).end_reason == made.EndReason.USER
assert [entry.amount for entry in pages(history.ledger, "entries")] == [-1, -1, 100]
