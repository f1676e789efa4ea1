//! `/api/auth`: signing up, logging in and out, changing the password, erasing an account, who
//! the caller is, and tickets.

use std::time::Duration;

use engine::store::{
    CreateUserError, EraseError, Erasure, NewPassword, NewUser, TokenGeneration, UserRecord,
};
use hyper::{HeaderMap, Request, StatusCode, body::Incoming};
use schema::{
    ErrorCode, UserId,
    account::{Authenticated, Done, PASSWORD_BYTES_MAX, Ticket, User},
    session::EndReason,
};

use crate::{
    access::AccessError,
    app::App,
    client::{ClientAddress, ClientNetwork},
    emails, erasure,
    hub::HubMessage,
    limits::Limit,
    log_ins::Attempt,
    passwords::{ChosenPassword, PasswordError},
    reply::{self, Failure, Reply},
    request, tickets,
    tokens::{Bearer, TokenId},
};

/// How long an erasure waits for live sessions to end, on whichever process.
const ERASURE_PATIENCE: Duration = Duration::from_secs(5);

/// `POST /api/auth/signup`
pub async fn sign_up(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let from = ClientAddress::of(&request).network();
    let (parts, body) = request.into_parts();
    let mut fields = request::fields(&parts.headers, body, &app.http).await?;
    let email = valid_email(&fields.text("email")?)?;
    let password = chosen("password", &fields.text("password")?, &email)?;
    app.signups
        .admit(from, app.engine.clock().now())
        .map_err(|wait| {
            app.metrics.limits.hit(Limit::SignupsPerAddress);
            Failure::rate_limited("Too many signups from this address.", wait)
        })?;
    let hash = app.passwords.hash(password).await;
    let password_hash = Some(hash.map_err(|error| unhashed(app, error))?);
    let created_at = app.engine.clock().now();
    let new = NewUser {
        email,
        password_hash,
        grant: app.signup_credits,
        created_at,
    };
    let user = app
        .engine
        .store()
        .create_user(new)
        .await
        .map_err(|error| match error {
            CreateUserError::EmailTaken => Failure::field(
                ErrorCode::EmailTaken,
                "email",
                "Somebody has signed up with this email already.",
            ),
            CreateUserError::Store(error) => Failure::of_write(error),
        })?;
    let account = app.log_ins.account(&user.email);
    app.log_ins.remember(account, from, created_at);
    let token = app.access.issue(&user)?;
    let message = "User created successfully".to_owned();
    // A fresh user has no session: what was just recorded is the live balance.
    let user = User {
        id: user.id,
        email: user.email,
        credits: user.credits,
        as_of: created_at,
        created_at: user.created_at,
        session: None,
    };
    Ok(reply::json(
        StatusCode::CREATED,
        &Authenticated {
            message,
            token,
            user,
        },
    ))
}

/// `POST /api/auth/login`
pub async fn log_in(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let from = ClientAddress::of(&request).network();
    let (parts, body) = request.into_parts();
    let mut fields = request::fields(&parts.headers, body, &app.http).await?;
    let (given, password) = (fields.text("email")?, fields.text("password")?);
    let email = emails::normal(&given);
    let refused = || {
        Failure::new(
            ErrorCode::InvalidCredentials,
            "Email and password don't belong together. Please check both.",
        )
    };
    // Nobody has such an email or password, so the database is not asked. All else is the same: it takes
    // as long and counts as a wrong password.
    let may_exist = emails::may_be(&email) && password.len() <= PASSWORD_BYTES_MAX;
    let record = if may_exist {
        emails::find(app.engine.store().as_ref(), &given).await?
    } else {
        None
    };
    let own_token = match &record {
        Some(record) => app.access.token_of_owner(&parts.headers, record.id).await?,
        None => None,
    };
    let attempt = begin_attempt(app, &email, from, own_token.as_ref())?;
    let stored = record
        .as_ref()
        .and_then(|record| record.password_hash.clone());
    let is_right = app.passwords.verify(password, stored).await;
    let is_right = is_right.map_err(|error| unhashed(app, error))?;
    let Some(record) = record.filter(|_| is_right) else {
        attempt.wrong();
        return Err(refused());
    };
    attempt.right(app.engine.clock().now());
    // Of the generation that was read with the password: a new password meanwhile voids it.
    let token = app.access.issue(&record)?;
    let user = live_user(app, record).await?;
    Ok(reply::json(
        StatusCode::OK,
        &Authenticated {
            message: "Login successful".to_owned(),
            token,
            user,
        },
    ))
}

/// `POST /api/auth/logout`
pub async fn log_out(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (parts, body) = request.into_parts();
    let bearer = app.access.of_request(&parts.headers).await?;
    let mut fields = request::fields(&parts.headers, body, &app.http).await?;
    let message = if fields.flag("everywhere")? {
        let voided = app.access.void_all(bearer.user).await;
        voided.map_err(Failure::of_write)?;
        "Logged out everywhere"
    } else {
        let revoked = app.access.revoke(&bearer).await;
        revoked.map_err(Failure::of_write)?;
        "Logged out"
    };
    close_sockets(app, bearer.user).await;
    Ok(done(message))
}

/// `POST /api/auth/password`
pub async fn change_password(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let from = ClientAddress::of(&request).network();
    let (parts, body) = request.into_parts();
    let bearer = app.access.of_request(&parts.headers).await?;
    let mut fields = request::fields(&parts.headers, body, &app.http).await?;
    let (current, new) = (fields.text("current")?, fields.text("new")?);
    let record = app.engine.store().user(bearer.user).await?;
    let email = record.ok_or(AccessError::InvalidToken)?.email;
    let new = chosen("new", &new, &email)?;
    let generation = check_own_password(app, &bearer, from, current).await?;
    let password = NewPassword {
        user: bearer.user,
        hash: app
            .passwords
            .hash(new)
            .await
            .map_err(|error| unhashed(app, error))?,
        decided_in: Some(generation),
        kept_token: Some(bearer.token.to_string()),
        at: app.engine.clock().now(),
    };
    let is_set = app.engine.store().set_password(password).await;
    if !is_set.map_err(Failure::of_write)? {
        // Somebody else has changed it meanwhile, or logged out everywhere.
        return Err(AccessError::InvalidToken.into());
    }
    app.access.forget(bearer.user);
    close_sockets(app, bearer.user).await;
    Ok(done("Password changed"))
}

/// `POST /api/auth/erase`
pub async fn erase(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let from = ClientAddress::of(&request).network();
    let (parts, body) = request.into_parts();
    let bearer = app.access.of_request(&parts.headers).await?;
    let mut fields = request::fields(&parts.headers, body, &app.http).await?;
    let password = fields.text("password")?;
    let generation = check_own_password(app, &bearer, from, password).await?;
    // Whoever goes by their own will is not ended by an operator. If it can't be stopped here, because
    // another process serves it for one, the erasure has it ended.
    let stopped = app.engine.stop_session(bearer.user, EndReason::User, None);
    if let Err(refused) = stopped.await {
        tracing::debug!(%refused, "no session was stopped before an erasure");
    }
    let erasure = Erasure {
        user: bearer.user,
        decided_in: Some(generation),
        operator: "user".to_owned(),
        at: app.engine.clock().now(),
    };
    let (store, clock) = (app.engine.store().as_ref(), app.engine.clock());
    let erased = erasure::erase(store, clock, &erasure, ERASURE_PATIENCE).await;
    erased.map_err(|error| match error {
        EraseError::UserUnknown | EraseError::Changed => AccessError::InvalidToken.into(),
        EraseError::SessionLive => Failure::unavailable(),
        EraseError::Store(error) => Failure::of_write(error),
    })?;
    app.access.forget(bearer.user);
    close_sockets(app, bearer.user).await;
    app.engine.forget(bearer.user);
    Ok(done("Account erased"))
}

/// Begins to try a password, if there may be another try.
fn begin_attempt<'a>(
    app: &'a App,
    email: &str,
    from: ClientNetwork,
    own_token: Option<&TokenId>,
) -> Result<Attempt<'a>, Failure> {
    let (account, now) = (app.log_ins.account(email), app.engine.clock().now());
    let begun = app.log_ins.begin(account, from, own_token, now);
    begun.map_err(|too_many| {
        app.metrics.limits.hit(too_many.limit);
        Failure::rate_limited("Too many wrong passwords.", too_many.retry_after)
    })
}

/// What is answered where a password could be neither hashed nor checked.
fn unhashed(app: &App, error: PasswordError) -> Failure {
    if matches!(error, PasswordError::Busy) {
        app.metrics.limits.hit(Limit::Passwords);
    }
    error.into()
}

/// Checks the password of whoever has a token, by what the database says now, and gives the
/// generation of the user's tokens that was read with it.
async fn check_own_password(
    app: &App,
    bearer: &Bearer,
    from: ClientNetwork,
    password: String,
) -> Result<TokenGeneration, Failure> {
    // A token that another process has just voided must not pass, nor be the one that is kept.
    let generation = app.access.check_anew(bearer).await?;
    let record = app.engine.store().user(bearer.user).await?;
    let record = record.ok_or(AccessError::InvalidToken)?;
    let attempt = begin_attempt(app, &record.email, from, Some(&bearer.token))?;
    let is_right = if password.len() > PASSWORD_BYTES_MAX {
        false
    } else {
        let verified = app.passwords.verify(password, record.password_hash).await;
        verified.map_err(|error| unhashed(app, error))?
    };
    if !is_right {
        attempt.wrong();
        return Err(Failure::new(
            ErrorCode::InvalidCredentials,
            "This is not the current password.",
        ));
    }
    attempt.right(app.engine.clock().now());
    Ok(generation)
}

/// Closes the user's sockets whose tokens are void. If that can't be found out now, the notice that was
/// left with the change will do it.
async fn close_sockets(app: &App, user: UserId) {
    let Ok(standing) = app.access.standing(user).await else {
        return;
    };
    let message = HubMessage::TokensChanged { user, standing };
    if app.hub.cast(message).is_err() {
        tracing::warn!("the hub is gone: sockets of void tokens stay until these end");
    }
}

fn done(message: &str) -> Reply {
    let message = message.to_owned();
    reply::json(StatusCode::OK, &Done { message })
}

/// `POST /api/ws/ticket`
pub async fn ticket(app: &App, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (parts, body) = request.into_parts();
    let bearer = app.access.of_request(&parts.headers).await?;
    request::fields(&parts.headers, body, &app.http).await?;
    let ticket = Ticket {
        ticket: app.access.issue_ticket(&bearer)?,
        expires_in: tickets::LIFETIME.get() / 1_000,
    };
    Ok(reply::json(StatusCode::OK, &ticket))
}

/// `GET /api/auth/me`
pub async fn me(app: &App, headers: &HeaderMap) -> Result<Reply, Failure> {
    let bearer = app.access.of_request(headers).await?;
    let record = app
        .engine
        .store()
        .user(bearer.user)
        .await?
        .ok_or(AccessError::InvalidToken)?;
    Ok(reply::json(StatusCode::OK, &live_user(app, record).await?))
}

/// The user with the balance of this moment.
async fn live_user(app: &App, record: UserRecord) -> Result<User, Failure> {
    let balance = app.engine.balance(record.id).await?;
    Ok(User {
        id: record.id,
        email: record.email,
        credits: balance.credits,
        as_of: balance.as_of,
        created_at: record.created_at,
        session: balance.session,
    })
}

/// `given` in the form that is kept, if it is an email address.
fn valid_email(given: &str) -> Result<String, Failure> {
    emails::valid(given).ok_or_else(|| {
        Failure::field(
            ErrorCode::InvalidEmail,
            "email",
            "This is not an email address.",
        )
    })
}

/// The password in `field`, if the user with this email may choose it.
fn chosen(field: &'static str, given: &str, email: &str) -> Result<ChosenPassword, Failure> {
    ChosenPassword::new(given, email)
        .map_err(|weak| Failure::field(ErrorCode::InvalidPassword, field, weak.to_string()))
}
