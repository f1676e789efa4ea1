//! An operator who changes wallets with the command line while the server runs, dies and returns.

use std::{process::Output, time::Duration};

use rand::{RngExt, rngs::StdRng};
use schema::{Credits, SessionId};
use tokio::{sync::watch, time::sleep};

use crate::{
    clocks::Clocks,
    history::{Adjustment, Attempt, Operation, Outcome, Recorder, Reply, Request, UserIndex},
    program::{self, Program},
    user::{Account, Phase},
};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// After so many attempts an operation stays unknown.
const ATTEMPTS_MAX: u32 = 20;

/// What the command line can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    revoke: bool,
    refund: bool,
}

impl Abilities {
    /// What the program's help says.
    pub async fn of(program: &Program) -> anyhow::Result<Self> {
        let output = program.run(&["credits", "--help"]).await?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        let has = |command| {
            help.lines()
                .any(|line| line.trim_start().starts_with(command))
        };
        Ok(Self {
            revoke: has("revoke "),
            refund: has("refund "),
        })
    }
}

/// An operator.
pub struct Operator {
    /// The command line.
    pub program: Program,
    /// What it can do.
    pub abilities: Abilities,
    /// Whose wallets are changed.
    pub accounts: Vec<Account>,
    /// Where to write it down.
    pub recorder: Recorder,
    /// Until when.
    pub phase: watch::Receiver<Phase>,
    /// Decides.
    pub random: StdRng,
    /// Sets the clocks of the commands wrong, if they are to be.
    pub clocks: Option<Clocks>,
}

impl Operator {
    /// Changes wallets until the closing phase.
    pub async fn run(mut self) {
        while *self.phase.borrow() == Phase::Busy {
            self.act().await;
            sleep(Duration::from_millis(self.random.random_range(50..500))).await;
        }
    }

    async fn act(&mut self) {
        let user = self.random.random_range(0..self.accounts.len());
        let email = self.accounts[user].email.clone();
        let (adjustment, amount) = self.choose(UserIndex(user));
        let Ok(credits) = Credits::new(amount) else {
            return;
        };
        let request = Request::Adjust(adjustment, credits);
        let (operation, key) = self.recorder.decide(UserIndex(user), request);
        let (verb, session) = match adjustment {
            Adjustment::Grant => ("grant", None),
            Adjustment::Revoke => ("revoke", None),
            Adjustment::Refund(session) => ("refund", Some(session.to_string())),
        };
        let amount = amount.to_string();
        let mut arguments = vec![
            "credits",
            verb,
            &email,
            &amount,
            "--reason",
            &key,
            "--operator",
            "crash",
            "--key",
            &key,
        ];
        if let Some(session) = &session {
            arguments.extend(["--session", session]);
        }
        for attempts in 1..=ATTEMPTS_MAX {
            let sent = self.recorder.now();
            let outcome = self.attempt(&arguments).await;
            let is_settled = match &outcome {
                Outcome::Acknowledged(_) | Outcome::Refused(_) => true,
                Outcome::Postponed(_) => attempts == 1,
                Outcome::Unknown(_) => self.random.random_ratio(1, 5),
            };
            let ended = self.recorder.now();
            self.recorder.attempted(
                operation,
                Attempt {
                    sent,
                    ended,
                    outcome,
                },
            );
            if is_settled {
                return;
            }
            sleep(Duration::from_millis(self.random.random_range(10..300))).await;
        }
    }

    fn choose(&mut self, user: UserIndex) -> (Adjustment, i64) {
        let choice = self.random.random_range(0..10);
        if choice < 2 && self.abilities.revoke {
            return (Adjustment::Revoke, self.random.random_range(1..10));
        }
        if choice < 5 && self.abilities.refund {
            let stopped = self.recorder.read(|history| {
                let operations = history.operations.iter().rev();
                operations
                    .filter(|operation| operation.user == user)
                    .find_map(cost)
            });
            if let Some((session, cost)) = stopped.filter(|(_, cost)| *cost > 0) {
                let amount = self.random.random_range(1..=cost);
                return (Adjustment::Refund(session), amount);
            }
        }
        (Adjustment::Grant, self.random.random_range(1..60))
    }

    /// Runs the command once, and sometimes kills it.
    async fn attempt(&mut self, arguments: &[&str]) -> Outcome {
        let mut command = self.program.command(arguments);
        if let Some(clocks) = &mut self.clocks {
            clocks.skew_command(&mut command);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Outcome::Postponed(error.to_string()),
        };
        let patience = if self.random.random_ratio(1, 6) {
            Duration::from_millis(self.random.random_range(0..150))
        } else {
            PATIENCE
        };
        match program::ended(&mut child, patience).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                // One that ends at this moment can't be killed.
                child.kill().ok();
            }
        }
        match child.wait_with_output() {
            Ok(output) => outcome(&output),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }
}

/// What the command said of itself.
fn outcome(output: &Output) -> Outcome {
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Outcome::Acknowledged(Reply::Adjusted),
        None => Outcome::Unknown("killed".to_owned()),
        Some(_) if error.contains("is unknown") => Outcome::Unknown(error),
        Some(_) if error.contains("no credits were") => Outcome::Refused(error),
        Some(_) => Outcome::Postponed(error),
    }
}

/// A session that was stopped, and what it cost.
fn cost(operation: &Operation) -> Option<(SessionId, i64)> {
    match operation.acknowledged()? {
        (_, Reply::Stopped(stopped)) => Some((stopped.session_id, stopped.credits_consumed.get())),
        _ => None,
    }
}
