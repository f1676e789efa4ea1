"""What a user does, by the client that openapi-python-client makes."""

import os

from minute_credit_attrs.api.accounts import me, sign_up
from minute_credit_attrs.api.history import ledger, session, sessions
from minute_credit_attrs.api.sessions import active_session, credits_, start_session, stop_session
from minute_credit_attrs.client import AuthenticatedClient, Client
from minute_credit_attrs.models import EmailAndPassword, EndReason, ErrorBody
from minute_credit_attrs.types import UNSET

url, broke = os.environ["URL"], os.environ["BROKE_TOKEN"]


def refused(status, code, call, **options):
    answer = call.sync_detailed(**options)
    assert answer.status_code == status and isinstance(answer.parsed, ErrorBody), answer
    assert answer.parsed.code.value == code and answer.parsed.error.endswith("."), answer


def pages(call, items, client, limit=1):
    cursor, found = UNSET, []
    while True:
        page = call.sync(client=client, limit=limit, cursor=cursor)
        assert len(getattr(page, items)) <= limit
        found += getattr(page, items)
        cursor = page.next_cursor
        if cursor is None:
            return found


nobody = Client(base_url=url)
new = EmailAndPassword(email="openapi-python-client@example.com", password="correct horse")
signed_up = sign_up.sync(client=nobody, body=new)
refused(409, "email_taken", sign_up, client=nobody, body=new)
refused(422, "invalid_email", sign_up, client=nobody, body=EmailAndPassword(email="nobody", password="correct horse"))
refused(401, "token_required", credits_, client=nobody)
refused(401, "invalid_token", credits_, client=AuthenticatedClient(base_url=url, token="nonsense"))
refused(402, "insufficient_credits", start_session, client=AuthenticatedClient(base_url=url, token=broke))

user = AuthenticatedClient(base_url=url, token=signed_up.token)
refused(422, "invalid_field", sessions, client=user, limit=0)
for idle in (signed_up.user, me.sync(client=user), credits_.sync(client=user), active_session.sync(client=user)):
    assert idle.credits_ == 100 and idle.session_id is UNSET and idle.depletes_at is UNSET, idle
assert active_session.sync(client=user).active is False
refused(409, "no_active_session", stop_session, client=user)

started = start_session.sync(client=user, idempotency_key="first")
assert start_session.sync(client=user, idempotency_key="first") == started
refused(409, "session_active", start_session, client=user, idempotency_key="second")
live = credits_.sync(client=user)
assert live.session_id == started.session_id and live.depletes_at > live.as_of, live
assert active_session.sync(client=user).active and me.sync(client=user).session_id == started.session_id
stopped = stop_session.sync(client=user)
assert stopped.credits_consumed == 1 and stopped.final_credits == 99, stopped
start_session.sync(client=user)
stop_session.sync(client=user)

assert [record.credits_consumed for record in pages(sessions, "sessions", user)] == [1, 1]
assert session.sync(started.session_id, client=user).end_reason == EndReason.USER
assert [entry.amount for entry in pages(ledger, "entries", user)] == [-1, -1, 100]
