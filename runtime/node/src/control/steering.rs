//! What operators do to a destination beside its configuration: hold it, empty its queue, give it other limits for a time.
//! All of it stands in the audit trail.

use std::{sync::Arc, time::Duration};

use axum::{Json, body::Body, extract::State};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tidegate_core::units::{Rounded, Span};

use super::{
    Control, Deed,
    auth::Caller,
    body,
    destinations::{find, not_found, shown},
    extract::Named,
    problems::bad_request,
    set,
};
use crate::{
    cluster::registry::{
        BrakeRecord, BrakeState, Command, DestinationRecord, OverrideRecord, Scope, Signed, Steer, now_ms,
    },
    problem::Problem,
};

/// Longest time for which something may be said to hold (no setting: whoever means longer changes the configuration).
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Characters of a reason (no setting: it is a remark, not data).
const REASON: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBrake {
    state: BrakeState,
    #[serde(default, rename = "for")]
    time: Option<Span>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOverride {
    #[serde(default)]
    limits: Option<Vec<Value>>,
    #[serde(default)]
    max_concurrency: Option<u32>,
    #[serde(rename = "for")]
    time: Span,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn brake(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let found = target(&control, &caller, &name)?;
    let new: NewBrake =
        read(&control, body, "a brake is made of `state` (paused or draining), and `for` and `reason` if wanted")
            .await?;
    let by = signed(&caller, new.reason)?;
    let until_ms = new.time.map(|time| until(time, by.since_ms)).transpose()?;
    let (action, past) = match new.state {
        BrakeState::Paused => ("pause", "paused"),
        BrakeState::Draining => ("drain", "draining"),
    };
    let detail = told(&[
        new.time.map_or("until it is resumed".to_owned(), |time| format!("for {time}")),
        by.reason.clone().unwrap_or_default(),
    ]);
    tracing::info!(destination = %name, by = %by.by, detail, "{past} by an operator");
    let brake = BrakeRecord { state: new.state, until_ms, by };
    steered(&control, &caller, found, Steer::Brake(Some(brake)), Deed { action, detail }).await
}

/// Lets it go, and ends the pauses that its upstream asked for.
pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    let found = target(&control, &caller, &name)?;
    let was = found.steering.at(now_ms()).brake;
    let detail = match &was {
        None => "the pauses of its upstream".to_owned(),
        Some(brake) => {
            let held = Duration::from_millis(now_ms().saturating_sub(brake.by.since_ms));
            format!("{} for {} by {}", state(brake.state), Rounded(held), brake.by.by)
        }
    };
    tracing::info!(destination = %name, by = caller.token_id(), "resumed by an operator");
    let deed = Deed { action: "resume", detail };
    let answer = match &found.steering.brake {
        Some(_) => steered(&control, &caller, found, Steer::Brake(None), deed).await?,
        None => {
            control.note(&caller, deed, format!("destinations/{name}")).await?;
            Json(shown(&found))
        }
    };
    control.gate.resume(caller.tenant(), &name);
    Ok(answer)
}

pub(super) async fn flush(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    target(&control, &caller, &name)?;
    // Nothing is done that is not written down.
    control.note(&caller, Deed::plain("flush"), format!("destinations/{name}")).await?;
    let flushed = control.gate.flush(caller.tenant(), &name);
    tracing::info!(destination = %name, by = caller.token_id(), flushed, "flushed by an operator");
    Ok(Json(json!({"name": name, "flushed": flushed})))
}

pub(super) async fn limit(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let found = target(&control, &caller, &name)?;
    let made = "an override is made of `limits` or `max_concurrency`, `for`, and `reason` if wanted";
    let new: NewOverride = read(&control, body, made).await?;
    if new.limits.is_none() && new.max_concurrency.is_none() {
        return Err(bad_request("an override says what holds instead: give it `limits` or `max_concurrency`"));
    }
    let by = signed(&caller, new.reason)?;
    let until_ms = until(new.time, by.since_ms)?;
    let what = [
        new.limits.as_ref().map(|limits| json!(limits).to_string()),
        new.max_concurrency.map(|max| format!("{max} at once")),
    ];
    let detail = told(&[
        what.into_iter().flatten().collect::<Vec<_>>().join(", "),
        format!("for {}", new.time),
        by.reason.clone().unwrap_or_default(),
    ]);
    let limits = OverrideRecord { limits: new.limits, max_concurrency: new.max_concurrency, until_ms, by };
    control.gate.check_override(&found.config, &limits)?;
    tracing::info!(destination = %name, by = caller.token_id(), detail, "limits overridden by an operator");
    steered(&control, &caller, found, Steer::Override(Some(limits)), Deed { action: "override", detail }).await
}

pub(super) async fn unlimit(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    let found = target(&control, &caller, &name)?;
    let deed = Deed { action: "end-override", detail: String::new() };
    steered(&control, &caller, found, Steer::Override(None), deed).await
}

/// The destination that an operator names, who may steer it.
fn target(control: &Control, caller: &Caller, name: &str) -> Result<Arc<DestinationRecord>, Problem> {
    caller.require(Scope::Deploy)?;
    find(control, caller, name).ok_or_else(|| not_found(name))
}

/// What an operator says. `made`: what it is made of, for who says something else.
async fn read<T: DeserializeOwned>(control: &Control, body: Body, made: &str) -> Result<T, Problem> {
    let value = body::required_json(body, &control.settings.control).await?;
    serde_json::from_value(value).map_err(|error| bad_request(format!("{error}; {made}")))
}

async fn steered(
    control: &Control,
    caller: &Caller,
    found: Arc<DestinationRecord>,
    steer: Steer,
    deed: Deed,
) -> Result<Json<Value>, Problem> {
    let (tenant, name) = (caller.tenant().clone(), found.name.clone());
    control.write(caller, deed, Command::SteerDestination { tenant, name, steer }).await?;
    let now = find(control, caller, found.name.as_str()).unwrap_or(found);
    Ok(Json(shown(&now)))
}

/// What operators do to it just now, as JSON; nothing where that is nothing.
pub(super) fn in_force(destination: &DestinationRecord) -> Option<Value> {
    let now = now_ms();
    let steering = destination.steering.at(now);
    if steering.is_none() {
        return None;
    }
    let left = |until: u64| json!(Rounded(Duration::from_millis(until.saturating_sub(now))).to_string());
    let mut value = json!(steering);
    for (key, until) in [
        ("brake", steering.brake.as_ref().and_then(|brake| brake.until_ms)),
        ("override", steering.limits.as_ref().map(|limits| limits.until_ms)),
    ] {
        if let (Some(until), Some(part)) = (until, value.get_mut(key)) {
            set(part, "left", left(until));
        }
    }
    Some(value)
}

fn signed(caller: &Caller, reason: Option<String>) -> Result<Signed, Problem> {
    let reason = reason.filter(|reason| !reason.trim().is_empty());
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON) {
        return Err(bad_request(format!("a reason has at most {REASON} characters")));
    }
    Ok(Signed { since_ms: now_ms(), by: caller.token_id().to_owned(), reason })
}

fn until(time: Span, from_ms: u64) -> Result<u64, Problem> {
    if time.0.is_zero() || time.0 > LONGEST {
        return Err(bad_request(format!("for: {time} is no time to hold something; write 1ms to {}", Span(LONGEST))));
    }
    Ok(from_ms.saturating_add(u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX)))
}

fn state(state: BrakeState) -> &'static str {
    match state {
        BrakeState::Paused => "paused",
        BrakeState::Draining => "draining",
    }
}

fn told(parts: &[String]) -> String {
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("; ")
}
