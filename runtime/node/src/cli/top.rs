//! `tidegate top`: destinations, functions and the newest calls of a node, as they live.
//!
//! [`model`] takes in what the control API says and adds it up, [`draw`] shows it, and this file is the loop around
//! them: it asks every interval, follows the calls, and reads keys.

mod draw;
mod follow;
mod model;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::LocalBoxFuture;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use serde_json::{Value, json};
use tidegate_core::units::Span;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::model::{Model, Sort};
use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::Out,
    target::ClientArgs,
};

/// Arguments of `tidegate top`.
#[derive(Args, Debug)]
#[command(after_help = "Keys: q quits; n, c, u, w, r sort by name, calls, queue, wait, refusals; p stops the picture")]
pub(super) struct TopArgs {
    /// How often the node is asked
    #[arg(short, long, value_name = "DURATION", default_value = "1s")]
    interval: Span,
    /// What comes first
    #[arg(long, value_name = "WHAT", default_value = "calls", value_enum)]
    sort: Sort,
    /// Print the state once and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// The shortest interval: a node has better things to do.
const LEAST: Duration = Duration::from_millis(100);
/// Destinations of one answer.
const PAGE: usize = 1_000;
/// Destinations that are asked for in all.
const DESTINATIONS: usize = 10_000;
/// Keys and calls that wait to be seen.
const WAITING: usize = 1_024;
/// How long a picture stays at least where nothing but calls came.
const PICTURE: Duration = Duration::from_millis(250);

/// Runs the command.
pub(super) async fn run(args: TopArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    let mut model = Model::new(args.sort);
    sample(&api, &mut model).await?;
    if args.once {
        return print(&api, &model).map(|()| Exit::Ok);
    }
    let interval = args.interval.get().max(LEAST);
    if out.is_json() || !std::io::stdout().is_terminal() {
        loop {
            print(&api, &model)?;
            tokio::time::sleep(interval).await;
            sample(&api, &mut model).await?;
        }
    }
    live(&api, model, interval).await
}

/// What the node says: destinations and functions.
type Said = (Vec<Value>, Vec<Value>);

/// Asks the node for everything once.
async fn ask(api: &Api) -> Result<Said, Failure> {
    let functions = api.get("/v1/functions", "listing functions").await?;
    let mut destinations = Vec::new();
    let mut path = format!("/v1/destinations?limit={PAGE}");
    loop {
        let page = api.get(&path, "listing destinations").await?;
        destinations.extend(page.get("live").and_then(Value::as_array).into_iter().flatten().cloned());
        match page.get("next").and_then(Value::as_str) {
            Some(next) if destinations.len() < DESTINATIONS => {
                path = format!("/v1/destinations?limit={PAGE}&after={}", segment(next));
            }
            _ => break,
        }
    }
    let functions = functions.get("functions").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok((destinations, functions))
}

async fn sample(api: &Api, model: &mut Model) -> Result<(), Failure> {
    let (destinations, functions) = ask(api).await?;
    model.sample(Instant::now(), &destinations, &functions);
    Ok(())
}

/// The state without a terminal: one object, or tables.
fn print(api: &Api, model: &Model) -> Result<(), Failure> {
    let now = Instant::now();
    if api.out.is_json() {
        return api.out.value(&json!({
            "destinations": model.destinations(now).iter().map(|row| row.to_json()).collect::<Vec<_>>(),
            "functions": model.functions().iter().map(|row| row.to_json()).collect::<Vec<_>>(),
        }));
    }
    draw::print(api.out, model, now)
}

/// The terminal while it is ours. However this ends, it is given back as it was.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the state until somebody quits.
async fn live(api: &Api, mut model: Model, interval: Duration) -> Result<Exit, Failure> {
    let mut screen = Screen(ratatui::try_init()?);
    let mut keys = keys();
    let (sender, mut calls) = mpsc::channel(WAITING);
    let following = follow::calls(api, sender);
    tokio::pin!(following);
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut picture = tokio::time::interval(PICTURE);
    picture.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nobody waits for a node that is away or slow: keys and calls are taken meanwhile.
    let mut asking: Option<LocalBoxFuture<'_, Result<Said, Failure>>> = None;
    let mut changed = true;
    loop {
        if changed && !model.is_stopped() {
            screen.0.draw(|frame| draw::draw(frame, &model, Instant::now()))?;
        }
        changed = false;
        let is_idle = asking.is_none();
        let said = async {
            match &mut asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            key = keys.recv() => match key {
                Some(Event::Key(key)) if quits(&key) => return Ok(Exit::Ok),
                Some(Event::Key(key)) => {
                    model.key(key.code);
                    changed = true;
                }
                Some(Event::Resize(..)) => changed = true,
                Some(_) => {}
                None => return Ok(Exit::Ok),
            },
            said = said => {
                asking = None;
                match said {
                    Ok((destinations, functions)) => {
                        model.sample(Instant::now(), &destinations, &functions);
                        model.trouble(None);
                    }
                    Err(failure) => model.trouble(Some(failure.what)),
                }
                changed = true;
            }
            _ = due.tick(), if is_idle => asking = Some(Box::pin(ask(api))),
            _ = picture.tick() => changed = true,
            Some(call) = calls.recv() => model.call(Instant::now(), call),
            never = &mut following => match never {},
        }
    }
}

fn quits(key: &KeyEvent) -> bool {
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
            _ => false,
        }
}

/// Keys and changes of size, read by a thread of their own, which ends when nobody listens any more.
fn keys() -> mpsc::Receiver<Event> {
    /// How often the thread looks whether somebody listens.
    const LOOK: Duration = Duration::from_millis(100);
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            match event::poll(LOOK) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(event) = event::read() else { return };
                    if sender.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    receiver
}
