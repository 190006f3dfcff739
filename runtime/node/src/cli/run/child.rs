//! The child process: started, sent the signals that we get, waited for.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
};

use rustix::{
    process::{Pid, Signal, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::super::failure::{Exit, Failure};

/// Runs the command to its end and returns how it ended.
pub(super) async fn run(command: &[OsString], variables: &[(String, String)]) -> Result<Exit, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new(Exit::Usage, "it is not said which program to run"));
    };
    // Taken over before the child is there, so that none is lost in between.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut window = signal(SignalKind::window_change())?;

    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::inherit())
        .kill_on_drop(true);
    end_with_us(&mut command);
    let mut child = command.spawn().map_err(|error| {
        // The codes that shells give for the same.
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        Failure::new(Exit::Child(code), format!("can't run `{}`: {error}", program.to_string_lossy()))
    })?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let pass_on = |signal: Signal| {
        if let Some(pid) = pid {
            // The only error is that the child is gone already; then the wait returns.
            let _ = kill_process(pid, signal);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Exit::Child(code(status?))),
            _ = interrupt.recv() => if !in_front() { pass_on(Signal::INT) },
            _ = quit.recv() => if !in_front() { pass_on(Signal::QUIT) },
            _ = terminate.recv() => pass_on(Signal::TERM),
            _ = hang_up.recv() => pass_on(Signal::HUP),
            _ = user1.recv() => pass_on(Signal::USR1),
            _ = user2.recv() => pass_on(Signal::USR2),
            _ = window.recv() => pass_on(Signal::WINCH),
        }
    }
}

/// The child gets SIGTERM when this process is gone without having passed anything on (SIGKILL, out of memory): its base
/// URLs lead nowhere then. Only Linux knows how.
#[cfg(target_os = "linux")]
fn end_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // Gone already, before it could be asked for.
        if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only system calls that are safe in signal handlers may be made: these are two, and
    // neither they nor their errors allocate.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn end_with_us(_: &mut Command) {}

/// Whether this process is in front at its terminal. A terminal sends Ctrl-C and Ctrl-\ to every process in front, the
/// child included, wherever stdin comes from; a second copy from us would end programs that take the first as a wish
/// and the second as an order.
fn in_front() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// A child's end as a shell reports it: its code, or 128 + n for signal n.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
