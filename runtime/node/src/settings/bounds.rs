//! Every bound with what it is set to, for `/v1/limits`.

use clap::{Args, Command};

use super::{Settings, Source};

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
    pub source: Source,
}

/// All bounds, in the order of the reference page.
pub fn bounds(settings: &Settings) -> Vec<Bound> {
    let values = values(settings);
    let command = Settings::augment_args(Command::new("serve"));
    let bound = |arg: &clap::Arg| {
        let key = arg.get_id().as_str();
        let (_, value) = values.iter().find(|(name, _)| *name == key)?;
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let source = settings.sources.get(key);
        let meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let flag = format!("--{}", arg.get_long().unwrap_or_default());
        Some(Bound { key: key.to_owned(), flag, variable, meaning, value: value.clone(), source })
    };
    command.get_arguments().filter_map(bound).collect()
}

macro_rules! values {
    ($settings:ident: $($group:ident { $($key:ident),* $(,)? })*) => {
        vec![$($((stringify!($key), $settings.$group.$key.to_string())),*),*]
    };
}

fn values(settings: &Settings) -> Vec<(&'static str, String)> {
    values! { settings:
        node { drain_grace, drain_timeout, log_queue_bytes }
        ingress {
            max_request_body, max_connections, header_timeout, idle_timeout, write_timeout, max_header_bytes,
            max_http2_streams, read_on_bytes, read_on_time,
        }
        control {
            max_functions, max_destinations, max_secrets, max_tokens, audit_records, max_control_body, max_control_connections, max_deploys,
            upload_idle, upload_timeout, deploy_wait, open_timeout,
        }
        guest {
            max_instances, guest_instances, guest_core_instances, instance_wait, instance_queue, guest_memory, max_guest_memory, total_guest_memory, guest_wall, max_guest_wall, guest_cpu,
            max_guest_cpu,
            guest_stream_idle, guest_stream_total, guest_calls, guest_concurrent_calls, guest_handles, guest_fields,
            guest_log_bytes, instance_reuse, instance_age, instance_idle, instance_concurrency, warm_memory, guest_threads, max_module, compile_cpu,
            compile_memory, keep_versions,
        }
        outbound {
            call_deadline, connect_timeout, first_byte_timeout, patient_first_byte_timeout, body_idle_timeout,
            max_answer_headers, max_answer_head, attempts, replay_body, replay_memory,
            queue_calls, queue_bytes, retry_share, retry_rate, hedge_share, max_pause, believed_pause, stream_comment, refusal_body, refusal_wait, usage_buffer, max_actors, connection_idle, max_idle_connections,
            cache_memory, cache_object, cache_disk, cache_patience,
        }
        observe { trail_bytes, trail_notable_bytes, trail_slowest, trail_failures, call_log_rate, otlp_queue_bytes, log_bytes, feed_lines, feed_bytes }
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::{super::Sources, *};

    fn settings(flags: &[&str], in_file: &[&str]) -> Settings {
        let command = Settings::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(std::iter::once("serve").chain(flags.iter().copied())).unwrap();
        let in_file: Vec<_> = in_file.iter().map(|key| (*key).to_owned()).collect();
        let sources = Sources::of(&matches, &in_file);
        Settings { sources, ..Settings::from_arg_matches(&matches).unwrap() }
    }

    #[test]
    fn every_bound_an_error_can_name_is_listed_with_its_value_and_source() {
        let listed =
            bounds(&settings(&["--guest-wall", "90s", "--queue-calls", "10000"], &["guest_wall", "guest_cpu"]));
        let find = |key: &str| listed.iter().find(|bound| bound.key == key).unwrap_or_else(|| panic!("{key}"));
        for key in super::super::names::ALL
            .iter()
            .filter(|key| !["egress_allow", "otlp_endpoint", "otlp_headers", "secret_key"].contains(key))
        {
            find(key);
        }
        assert_eq!((find("guest_wall").value.as_str(), find("guest_wall").source), ("1m30s", Source::Flag));
        assert_eq!(find("guest_cpu").source, Source::File);
        assert_eq!(find("queue_calls").source, Source::Flag, "it was said, if only the default");
        assert_eq!(find("first_byte_timeout").source, Source::Default);
        assert_eq!(find("max_module").flag, "--max-module");
    }
}
