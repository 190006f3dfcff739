//! Keys of settings, for errors that must name the setting behind a bound.
//!
//! A test holds each against the declared settings, so that an error can't name one that is not there.

macro_rules! names {
    ($($constant:ident = $key:literal;)*) => {
        $(#[doc = concat!("`", $key, "`")] pub const $constant: &str = $key;)*
        #[cfg(test)]
        pub(super) const ALL: &[&str] = &[$($key),*];
    };
}

names! {
    MAX_REQUEST_BODY = "max_request_body";
    MAX_CONNECTIONS = "max_connections";
    HEADER_TIMEOUT = "header_timeout";
    IDLE_TIMEOUT = "idle_timeout";
    WRITE_TIMEOUT = "write_timeout";
    MAX_HEADER_BYTES = "max_header_bytes";
    MAX_HTTP2_STREAMS = "max_http2_streams";
    READ_ON_BYTES = "read_on_bytes";
    READ_ON_TIME = "read_on_time";
    MAX_FUNCTIONS = "max_functions";
    MAX_DESTINATIONS = "max_destinations";
    MAX_SECRETS = "max_secrets";
    SECRET_KEY = "secret_key";
    MAX_TOKENS = "max_tokens";
    AUDIT_RECORDS = "audit_records";
    MAX_CONTROL_BODY = "max_control_body";
    MAX_CONTROL_CONNECTIONS = "max_control_connections";
    MAX_DEPLOYS = "max_deploys";
    UPLOAD_IDLE = "upload_idle";
    UPLOAD_TIMEOUT = "upload_timeout";
    DEPLOY_WAIT = "deploy_wait";
    OPEN_TIMEOUT = "open_timeout";
    KEEP_VERSIONS = "keep_versions";
    DRAIN_TIMEOUT = "drain_timeout";
    LOG_QUEUE_BYTES = "log_queue_bytes";
    MAX_INSTANCES = "max_instances";
    GUEST_INSTANCES = "guest_instances";
    GUEST_CORE_INSTANCES = "guest_core_instances";
    INSTANCE_WAIT = "instance_wait";
    INSTANCE_QUEUE = "instance_queue";
    GUEST_MEMORY = "guest_memory";
    MAX_GUEST_MEMORY = "max_guest_memory";
    TOTAL_GUEST_MEMORY = "total_guest_memory";
    GUEST_WALL = "guest_wall";
    MAX_GUEST_WALL = "max_guest_wall";
    GUEST_CPU = "guest_cpu";
    MAX_GUEST_CPU = "max_guest_cpu";
    GUEST_STREAM_IDLE = "guest_stream_idle";
    GUEST_STREAM_TOTAL = "guest_stream_total";
    GUEST_CALLS = "guest_calls";
    GUEST_CONCURRENT_CALLS = "guest_concurrent_calls";
    GUEST_HANDLES = "guest_handles";
    GUEST_FIELDS = "guest_fields";
    GUEST_LOG_BYTES = "guest_log_bytes";
    MAX_MODULE = "max_module";
    COMPILE_CPU = "compile_cpu";
    COMPILE_MEMORY = "compile_memory";
    EGRESS_ALLOW = "egress_allow";
    CALL_DEADLINE = "call_deadline";
    CONNECT_TIMEOUT = "connect_timeout";
    FIRST_BYTE_TIMEOUT = "first_byte_timeout";
    PATIENT_FIRST_BYTE_TIMEOUT = "patient_first_byte_timeout";
    MAX_ANSWER_HEADERS = "max_answer_headers";
    MAX_ANSWER_HEAD = "max_answer_head";
    BODY_IDLE_TIMEOUT = "body_idle_timeout";
    ATTEMPTS = "attempts";
    REPLAY_BODY = "replay_body";
    REPLAY_MEMORY = "replay_memory";
    QUEUE_CALLS = "queue_calls";
    QUEUE_BYTES = "queue_bytes";
    RETRY_SHARE = "retry_share";
    RETRY_RATE = "retry_rate";
    HEDGE_SHARE = "hedge_share";
    MAX_PAUSE = "max_pause";
    BELIEVED_PAUSE = "believed_pause";
    STREAM_COMMENT = "stream_comment";
    REFUSAL_BODY = "refusal_body";
    REFUSAL_WAIT = "refusal_wait";
    USAGE_BUFFER = "usage_buffer";
    MAX_ACTORS = "max_actors";
    CACHE_MEMORY = "cache_memory";
    CACHE_OBJECT = "cache_object";
    CACHE_DISK = "cache_disk";
    CACHE_PATIENCE = "cache_patience";
    CALL_LOG_RATE = "call_log_rate";
    TRAIL_BYTES = "trail_bytes";
    OTLP_ENDPOINT = "otlp_endpoint";
    OTLP_HEADERS = "otlp_headers";
    FEED_LINES = "feed_lines";
    FEED_BYTES = "feed_bytes";
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    #[test]
    fn every_name_in_an_error_is_a_declared_setting() {
        let command = crate::settings::Settings::augment_args(Command::new("serve"));
        let declared: Vec<_> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
        for name in super::ALL {
            assert!(declared.iter().any(|id| id == name), "{name}");
        }
    }
}
