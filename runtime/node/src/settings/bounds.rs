//! Every bound with what it is set to, for `/v1/limits`.

use clap::{Args, Command};

use super::Settings;

/// One bound of a node.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its key in `node.toml`, as errors name it.
    pub key: String,
    /// Its flag.
    pub flag: String,
    /// Its variable.
    pub variable: String,
    /// What it bounds.
    pub meaning: String,
    /// What it is set to.
    pub value: String,
    /// Where the value comes from.
    pub source: &'static str,
}

/// All bounds, in the order of the reference page.
pub fn bounds(settings: &Settings) -> Vec<Bound> {
    let values = values(settings);
    let command = Settings::augment_args(Command::new("serve"));
    let bound = |arg: &clap::Arg| {
        let key = arg.get_id().as_str();
        let (_, value) = values.iter().find(|(name, _)| *name == key)?;
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
        let source = if default.as_ref().is_some_and(|default| same(default, value)) {
            "default"
        } else if std::env::var_os(&variable).is_some() {
            "variable"
        } else {
            "flag or file"
        };
        let meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let flag = format!("--{}", arg.get_long().unwrap_or_default());
        Some(Bound { key: key.to_owned(), flag, variable, meaning, value: value.clone(), source })
    };
    command.get_arguments().filter_map(bound).collect()
}

/// Whether a default says the same as a value: `60s` prints as `1m`.
fn same(default: &str, value: &str) -> bool {
    use tidegate_core::units::{Size, Span};
    let spans = (default.parse::<Span>(), value.parse::<Span>());
    let sizes = (default.parse::<Size>(), value.parse::<Size>());
    default == value || matches!(spans, (Ok(a), Ok(b)) if a == b) || matches!(sizes, (Ok(a), Ok(b)) if a == b)
}

macro_rules! values {
    ($settings:ident: $($group:ident { $($key:ident),* $(,)? })*) => {
        vec![$($((stringify!($key), $settings.$group.$key.to_string())),*),*]
    };
}

fn values(settings: &Settings) -> Vec<(&'static str, String)> {
    values! { settings:
        node { drain_timeout }
        ingress {
            max_request_body, max_connections, header_timeout, max_header_bytes, max_http2_streams,
        }
        control {
            max_functions, max_destinations, max_tokens, max_control_body, max_control_connections, max_deploys,
            upload_idle, open_timeout,
        }
        guest {
            max_instances, guest_instances, guest_core_instances, instance_wait, instance_queue, guest_memory, max_guest_memory, guest_wall, max_guest_wall, guest_cpu,
            max_guest_cpu,
            guest_stream_idle, guest_stream_total, guest_calls, guest_concurrent_calls, guest_handles, guest_fields,
            guest_log_bytes, instance_reuse, instance_age, instance_idle, instance_concurrency, warm_memory, guest_threads, max_module, compile_cpu,
            compile_memory, keep_versions,
        }
        outbound {
            call_deadline, connect_timeout, first_byte_timeout, patient_first_byte_timeout, body_idle_timeout,
            max_answer_headers, max_answer_head, attempts, replay_body, replay_memory,
            queue_calls, queue_bytes, max_pause, max_actors, connection_idle, max_idle_connections,
        }
        observe { trail_bytes, log_bytes, feed_lines }
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn settings(flags: &[&str]) -> Settings {
        let command = Settings::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(std::iter::once("serve").chain(flags.iter().copied())).unwrap();
        Settings::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn every_bound_an_error_can_name_is_listed_with_its_value_and_source() {
        let listed = bounds(&settings(&["--guest-wall", "90s"]));
        let find = |key: &str| listed.iter().find(|bound| bound.key == key).unwrap_or_else(|| panic!("{key}"));
        for key in super::super::names::ALL.iter().filter(|key| **key != "egress_allow") {
            find(key);
        }
        assert_eq!((find("guest_wall").value.as_str(), find("guest_wall").source), ("1m30s", "flag or file"));
        assert_eq!(find("first_byte_timeout").source, "default", "60s prints as 1m");
        assert_eq!(find("max_module").flag, "--max-module");
    }
}
