//! A user who starts, stops and looks, and retries under the same key whatever had no answer.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use schema::{
    ErrorCode, SessionId,
    account::Authenticated,
    ledger::LedgerPage,
    session::{Active, LiveBalance, SessionPage, SessionStarted, SessionStopped},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::sleep};

use crate::{
    client::{Answer, Call, Client, Exchange},
    history::{Attempt, OperationId, Outcome, Recorder, Reply, Request, Sighting, UserIndex},
};

/// All users have the same; hashing it is what signing up costs.
const PASSWORD: &str = "correct horse battery";

/// The wait before something is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What users shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whatever comes to their minds.
    Busy,
    /// Stop their sessions and end.
    Closing,
}

/// Who a user is to the server.
#[derive(Clone, Debug)]
pub struct Account {
    /// The run's number for the user.
    pub index: UserIndex,
    /// The email.
    pub email: String,
    /// The bearer token.
    pub token: String,
}

/// What came of an operation.
enum Ended<T> {
    Acknowledged(T),
    Refused(ErrorCode),
    /// Nobody will ask again.
    Abandoned,
}

/// A user.
pub struct User {
    account: Account,
    client: Client,
    /// For what is sent twice at once.
    other_client: Client,
    recorder: Recorder,
    phase: watch::Receiver<Phase>,
    random: StdRng,
    /// The session that the user believes to be live.
    session: Option<SessionId>,
}

/// Signs `email` up, or logs it in where an unknown outcome turns out to have been done.
pub async fn sign_up(
    index: UserIndex,
    email: String,
    client: &mut Client,
    recorder: &Recorder,
) -> Account {
    let body = serde_json::json!({ "email": email, "password": PASSWORD }).to_string();
    let (operation, _) = recorder.decide(index, Request::SignUp);
    let mut path = "/api/auth/signup";
    loop {
        client.server_is_up().await;
        let call = Call {
            body: &body,
            ..Call::post(path, "", "")
        };
        let exchange = client.call::<Authenticated>(call).await;
        match &exchange.answer {
            Answer::Unknown(_) | Answer::Failed(ErrorCode::EmailTaken) => path = "/api/auth/login",
            Answer::Failed(ErrorCode::InvalidCredentials) => path = "/api/auth/signup",
            _ => {}
        }
        let ended = note(recorder, operation, exchange, |_| Reply::SignedUp);
        if let Some(Answer::Done(authenticated)) = ended {
            return Account {
                index,
                email,
                token: authenticated.token,
            };
        }
        sleep(RETRY_AFTER).await;
    }
}

impl User {
    /// A user who does what `random` says.
    pub fn new(
        account: Account,
        [client, other_client]: [Client; 2],
        recorder: Recorder,
        phase: watch::Receiver<Phase>,
        random: StdRng,
    ) -> Self {
        Self {
            account,
            client,
            other_client,
            recorder,
            phase,
            random,
            session: None,
        }
    }

    /// Is busy until the closing phase, then stops what is live.
    pub async fn run(mut self) {
        while *self.phase.borrow() == Phase::Busy {
            self.act().await;
            let pause = self.random.random_range(10..250);
            sleep(Duration::from_millis(pause)).await;
        }
        loop {
            self.look().await;
            if self.session.is_none() {
                return;
            }
            self.stop().await;
        }
    }

    async fn act(&mut self) {
        let choice = self.random.random_range(0..100);
        match (self.session, choice) {
            (None, 0..60) | (Some(_), 0..4) => self.start().await,
            (None, 60..64) | (Some(_), 4..14) => self.stop().await,
            (_, 64..90) => self.look().await,
            (_, 90..94) => self.read_history().await,
            _ => {}
        }
    }

    async fn start(&mut self) {
        let path = "/api/sessions/start";
        let started: Ended<SessionStarted> = self
            .command(Request::Start, path, |started: &SessionStarted| {
                Reply::Started(started.clone())
            })
            .await;
        match started {
            Ended::Acknowledged(started) => self.session = Some(started.session_id),
            Ended::Refused(ErrorCode::InsufficientCredits) => {
                sleep(Duration::from_millis(300)).await;
            }
            Ended::Refused(_) | Ended::Abandoned => self.look().await,
        }
    }

    async fn stop(&mut self) {
        let path = "/api/sessions/stop";
        let stopped: Ended<SessionStopped> = self
            .command(Request::Stop, path, |stopped: &SessionStopped| {
                Reply::Stopped(stopped.clone())
            })
            .await;
        match stopped {
            Ended::Acknowledged(_) | Ended::Refused(ErrorCode::NoActiveSession) => {
                self.session = None;
            }
            Ended::Refused(_) | Ended::Abandoned => self.look().await,
        }
    }

    /// Asks for the balance until it is told, and believes what it says of the session.
    async fn look(&mut self) {
        loop {
            self.client.server_is_up().await;
            let token = &self.account.token;
            let (sent, ended, answer) = if self.random.random() {
                let call = Call::get("/api/sessions/credits", token);
                let exchange = self.client.call::<LiveBalance>(call).await;
                (exchange.sent, exchange.ended, exchange.answer)
            } else {
                let call = Call::get("/api/sessions/active", token);
                let exchange = self.client.call::<Active>(call).await;
                let answer = match exchange.answer {
                    Answer::Done(active) => {
                        if active.active != active.balance.session.is_some() {
                            self.recorder
                                .complain(format!("a reply contradicts itself: {active:?}"));
                        }
                        Answer::Done(active.balance)
                    }
                    Answer::Failed(code) => Answer::Failed(code),
                    Answer::Unknown(why) => Answer::Unknown(why),
                    Answer::NotSent => Answer::NotSent,
                };
                (exchange.sent, exchange.ended, answer)
            };
            match answer {
                Answer::Done(balance) => {
                    self.session = balance.session.map(|session| session.session_id);
                    self.recorder.saw(Sighting {
                        user: self.account.index,
                        sent,
                        ended,
                        balance,
                    });
                    return;
                }
                Answer::Failed(code) if code != ErrorCode::Unavailable => {
                    self.recorder
                        .complain(format!("the balance was refused: {code:?}"));
                    return;
                }
                _ => sleep(RETRY_AFTER).await,
            }
        }
    }

    /// Reads a page of the history. What it says is checked in the end; here it must only be readable.
    async fn read_history(&mut self) {
        let token = &self.account.token;
        if self.random.random() {
            let call = Call::get("/api/sessions?limit=5", token);
            self.client.call::<SessionPage>(call).await;
        } else {
            let call = Call::get("/api/ledger?limit=5", token);
            self.client.call::<LedgerPage>(call).await;
        }
    }

    /// Does what `request` asks for. Some of the time it is sent twice at once: under one key, as a
    /// nervous client does, or under two, as two clients of one user do.
    async fn command<T: DeserializeOwned>(
        &mut self,
        request: Request,
        path: &str,
        reply: impl Fn(&T) -> Reply,
    ) -> Ended<T> {
        let decide = || self.recorder.decide(self.account.index, request);
        let first = decide();
        let second = match self.random.random_range(0..16) {
            0 => Some(first.clone()),
            1 => Some(decide()),
            _ => None,
        };
        let mut errand = |client, (operation, key)| Errand {
            client,
            operation,
            key,
            path,
            token: &self.account.token,
            recorder: &self.recorder,
            phase: &self.phase,
            random: StdRng::seed_from_u64(self.random.random()),
        };
        let first = errand(&mut self.client, first);
        let Some(second) = second else {
            return first.run(&reply).await;
        };
        let second = errand(&mut self.other_client, second);
        match tokio::join!(first.run(&reply), second.run(&reply)) {
            (Ended::Acknowledged(done), _) | (_, Ended::Acknowledged(done)) => {
                Ended::Acknowledged(done)
            }
            (Ended::Abandoned, _) | (_, Ended::Abandoned) => Ended::Abandoned,
            (refused, _) => refused,
        }
    }
}

/// A command on its way.
struct Errand<'a> {
    client: &'a mut Client,
    operation: OperationId,
    key: String,
    path: &'a str,
    token: &'a str,
    recorder: &'a Recorder,
    phase: &'a watch::Receiver<Phase>,
    random: StdRng,
}

impl Errand<'_> {
    /// Sends it until it has an answer, under one key. Some of those without one are given up.
    async fn run<T: DeserializeOwned>(mut self, reply: impl Fn(&T) -> Reply) -> Ended<T> {
        let mut was_unknown = false;
        loop {
            self.client.server_is_up().await;
            let call = Call::post(self.path, self.token, &self.key);
            let exchange = self.client.call::<T>(call).await;
            match note(self.recorder, self.operation, exchange, &reply) {
                Some(Answer::Done(value)) => return Ended::Acknowledged(value),
                Some(Answer::Failed(code)) if !(was_unknown && is_temporary(code)) => {
                    return Ended::Refused(code);
                }
                Some(Answer::Unknown(_)) => {
                    was_unknown = true;
                    let may_give_up = *self.phase.borrow() == Phase::Busy;
                    if may_give_up && self.random.random_ratio(1, 4) {
                        return Ended::Abandoned;
                    }
                }
                _ => {}
            }
            let wait = RETRY_AFTER.mul_f64(self.random.random_range(0.1..2.0));
            sleep(wait).await;
        }
    }
}

/// Writes an attempt down, unless it never went out.
pub fn note<T>(
    recorder: &Recorder,
    operation: OperationId,
    exchange: Exchange<T>,
    reply: impl Fn(&T) -> Reply,
) -> Option<Answer<T>> {
    let outcome = match &exchange.answer {
        Answer::Done(value) => Outcome::Acknowledged(reply(value)),
        Answer::Failed(code) if is_temporary(*code) => Outcome::Postponed(name(*code)),
        Answer::Failed(code) => Outcome::Refused(name(*code)),
        Answer::Unknown(why) => Outcome::Unknown(why.clone()),
        Answer::NotSent => return None,
    };
    recorder.attempted(
        operation,
        Attempt {
            sent: exchange.sent,
            ended: exchange.ended,
            outcome,
        },
    );
    Some(exchange.answer)
}

/// Whether the refusal is for now only, and says nothing of earlier attempts.
fn is_temporary(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Unavailable | ErrorCode::RateLimited)
}

/// The code as it stands in JSON.
fn name(code: ErrorCode) -> String {
    serde_json::to_value(code)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("{code:?}"))
}
