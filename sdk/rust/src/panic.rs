//! Panics reach the log with message and place on every target. Without this a core module just traps.

use std::sync::Once;

static HOOK: Once = Once::new();

/// Installs the hook, once per instance. The panic itself still ends the instance.
pub(crate) fn log_panics() {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
            let message = info.payload_as_str().unwrap_or("(no message)");
            crate::log::write(&format!("panicked at {place}: {message}"));
        }));
    });
}
