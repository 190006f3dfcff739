//! Every kind of problem there is: the table behind `docs/problems.md`.
//!
//! A kind is raised where its error is; here is what a client may rely on. Debug builds, and so all tests, end where
//! a problem is raised that the table does not hold, or holds with another status.

use http::StatusCode;

/// One kind of problem.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The last segment of `type`.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// When it happens and what helps.
    pub meaning: &'static str,
}

macro_rules! kinds {
    ($($heading:literal { $($name:literal $status:literal $meaning:literal)* })*) => {
        /// All kinds, by who raises them.
        pub const KINDS: &[(&str, &[Kind])] =
            &[$(($heading, &[$(Kind { name: $name, status: $status, meaning: $meaning }),*])),*];
    };
}

kinds! {
    "Requests, on every listener" {
        "unauthorized" 401 "No token, or one that is not known or was revoked"
        "missing-scope" 403 "The token's scopes do not cover this; `scope` names the one that would"
        "no-such-path" 404 "Nothing is at this path"
        "method-not-allowed" 405 "The path does not take this method; `Allow` says which it takes, but for CONNECT and TRACE, which no path takes"
    }

    "Data listener" {
        "bad-authority" 400 "The request names no host, several, or something that is none"
        "bad-target" 400 "The target of the request is neither a path nor an absolute URL"
        "cross-site" 403 "A web page of another origin sent it, and the gate asks for no token"
        "no-such-function" 404 "No function of this name is deployed"
        "no-such-version" 404 "The function keeps no version of this number"
        "no-version-serves" 404 "The function has versions, and none was let serve"
        "request-too-large" 413 "The request's body is beyond `max_request_body`"
        "no-respond-async" 501 "`Prefer: respond-async` is not offered by this release"
        "transfer-coding" 501 "The body is coded for its way in another manner than in chunks"
        "no-upgrade" 501 "Upgrades (WebSocket) are not offered"
    }

    "Functions" {
        "secret-handle" 400 "The request holds a handle of one of the function's secrets, which nobody outside it should know"
        "outbound-calls" 429 "The invocation made as many outbound calls as it may"
        "guest-trap" 500 "The guest trapped"
        "guest-exit" 500 "The guest ended its process"
        "guest-no-answer" 500 "The guest returned without an answer"
        "guest-error" 500 "The guest answered with a `wasi:http` error code"
        "guest-status" 500 "The guest answered with a status that is no final answer"
        "guest-start" 500 "No instance of the guest can be made"
        "guest-memory" 500 "The guest wanted more memory than it may have"
        "guest-handles" 500 "The guest wanted more handles of the host than it may have"
        "guest-fields" 500 "The guest wanted the host to hold more headers than it may"
        "guest-copy" 500 "The guest wanted more copied in one call than it may"
        "instance-wait" 503 "No instance became free in time; `Retry-After` is set"
        "instance-pool" 503 "The engine has no room for more at the moment; `Retry-After` is set"
        "total-guest-memory" 503 "All guests together hold as much memory as they may, or all that is left for this function; `Retry-After` is set"
        "instance-queue" 503 "Too many requests wait for an instance; `Retry-After` is set"
        "instance-lost" 503 "Another request brought the shared instance down; a retry helps"
        "shutting-down" 503 "The node is going down; a retry reaches another or the next one"
        "guest-wall" 504 "No head of an answer within the wall time, waiting at the gate not counted"
        "guest-cpu" 504 "The guest computed for longer than it may"
        "guest-stream-idle" 504 "The guest's answer stood still for too long"
        "guest-stream-total" 504 "The guest's answer lasted too long"
        "deadline" 504 "The client's own deadline (`Prefer: wait`) passed before the guest answered"
    }

    "The gate" {
        "header-invalid" 400 "A header that speaks to the gate says something wrong"
        "to-invalid" 400 "The URL in a path of `/to` can't be read"
        "destination-many" 400 "The destination stands for many hosts; name one with `/to/https://host/path`"
        "request-invalid" 400 "The request can't be sent as it is"
        "request-body" 400 "The request's body ended early"
        "host-denied" 403 "The function's `allowed_hosts` don't hold this host; the detail has the line to paste"
        "address-denied" 403 "The host's address is not public, and `egress_allow` does not hold it"
        "secret-unbound" 403 "A secret does not go to this destination, or does not serve this function; the detail says how to bind it. Nothing was sent"
        "secret-place" 403 "The handle of a secret stands where it is not replaced; the detail says where it may stand. Nothing was sent"
        "destination-unknown" 404 "No destination of this name is configured"
        "queue-full" 429 "As many calls or bytes wait for the destination as may; `Retry-After` is set where it is calls and known when one of them leaves"
        "deadline-unreachable" 429 "The call's turn would come after its deadline; `Retry-After` says when to come back"
        "cost-too-large" 429 "The call costs more than the destination's whole quota: it can never be sent"
        "dns" 502 "The host has no address"
        "connect" 502 "No connection to the upstream"
        "tls" 502 "TLS with the upstream failed"
        "upstream-failing" 502 "The upstream kept failing until the call's deadline; the detail names its last answer"
        "closed" 502 "The upstream closed the connection before it answered"
        "head-too-large" 502 "The head of the upstream's answer is beyond `max_answer_headers` or `max_answer_head`"
        "protocol" 502 "What the upstream sent is no HTTP"
        "draining" 503 "An operator drains the destination: no further call is taken"
        "flushed" 503 "An operator flushed what waited for the destination"
        "no-region" 400 "The destination has no endpoint in the regions that the policy insists on; where none are configured, that is the node's own"
        "secret-sealed" 503 "A secret can't be opened with the keys that the node has (`secret_key`); also of the control API"
        "too-many-destinations" 503 "The node remembers as many busy destinations as it may"
        "connect-timeout" 504 "No connection to the upstream in time"
        "request-unread" 504 "The upstream took nothing more of the request's body for `body_idle_timeout`"
        "first-byte-timeout" 504 "No head of an answer from the upstream in time"
        "deadline-passed" 504 "The call's deadline passed while it waited or was under way"
        "not-cached" 504 "The request wants a stored answer only (`only-if-cached`), and none does for it"
        "loop" 508 "The request has passed too many gates: it calls itself"
    }

    "Control API" {
        "bad-request" 400 "The request can't be understood; the detail says which part"
        "not-found" 404 "There is no such function, version, destination, secret, token or trail"
        "upload-idle" 408 "Nothing came of an upload for `upload_idle`, or a body that is no module did not come whole within it"
        "upload-timeout" 408 "The upload took longer than `upload_timeout`"
        "deploys-busy" 503 "`max_deploys` others are deployed, and none was done within `deploy_wait`; `Retry-After` is set"
        "conflict" 409 "Something else is in the way, such as a route that another function has"
        "no-older-version" 409 "The function keeps no version to go back to"
        "changed-meanwhile" 412 "It is not at the revision that `If-Match` names; read it again"
        "body-too-large" 413 "The body is beyond `max_control_body`"
        "unsupported-media-type" 415 "The body is neither a module nor a form with one"
        "invalid-configuration" 422 "A configuration is wrong; `key` names the key"
        "open-timeout" 503 "The version that is to serve did not open within `open_timeout`; nothing was changed"
        "registry-full" 507 "There are as many of these as the node keeps"
        "storage" 507 "The node's disk failed or is full; the change is not in force"
    }

    "Modules" {
        "module-too-large" 413 "The module is beyond `max_module`"
        "not-wasm" 422 "The upload is not WebAssembly"
        "invalid-module" 422 "The module does not validate; the detail says where"
        "no-component-type" 422 "A core module without a component type"
        "no-handler" 422 "The component exports no `wasi:http` handler; `exports` lists what it exports"
        "import-not-offered" 422 "The component imports what the host does not offer; `imports` lists it"
        "needs-more" 422 "The component needs more at its start than it may have"
        "compile-limit" 422 "The module takes more time or memory to compile than it may"
        "compile-failed" 422 "The module can't be compiled"
        "module-store" 500 "The node's disk or system failed it"
        "module-missing" 503 "The module's bytes are not on this node"
        "module-damaged" 503 "The module's bytes on this node are not those that were deployed: deploy it again"
    }
}

/// Whether the table holds this kind with this status.
pub(super) fn is_known(name: &str, status: StatusCode) -> bool {
    let mut all = KINDS.iter().flat_map(|(_, kinds)| kinds.iter());
    all.any(|kind| kind.name == name && kind.status == status.as_u16())
}

/// The page as Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Problems\n\n\
         Every error that Tidegate itself answers with is `application/problem+json` (RFC 9457): `type` is\n\
         `/problems/KIND`, `detail` says what happened this time and what to do next. Where a bound bit, `limit`, `value`\n\
         and `setting` name it ([settings](settings.md)); `trail` is the trace id under which `tidegate trails show` tells\n\
         the whole story. `Retry-After` is set where a later try may help, `x-should-retry: false` where a client's own\n\
         can't. Clients may rely on kinds and statuses; titles and details may be reworded.\n\n\
         Only what never becomes a request is answered without a body, and its connection closed: a head that is no HTTP\n\
         with a 400, one beyond what the listener reads with a 431.\n\
         \n\
         ## Who repeats\n\
         \n\
         The gate repeats what may be repeated, and a library that does so, too, multiplies: four attempts for each of its\n\
         three are twelve. Answers after which a repetition by the client is in vain say `x-should-retry: false`, which the\n\
         libraries of OpenAI and Anthropic heed. Of answers of an upstream that is said of\n\
         \n\
         - a failure after the last of the attempts that `policy.retries` allows, or when the retry budget of the destination\n\
         \x20\x20is spent, or when the call failed before and its deadline leaves no time for another attempt;\n\
         - a refusal that no waiting ends (out of credit), one that a call got again and again while others passed, and what\n\
         \x20\x20the upstream itself says so of.\n\
         \n\
         Problems below say it where the gate tried for as long as it may, and where what is wrong stays wrong: a name that\n\
         does not exist, a request that is not allowed, a queue that an operator emptied.\n\
         \n\
         It is not said where a wait helps: a full queue, a deadline that is too close, a refusal that ends after the deadline\n\
         (`Retry-After` says when, if anybody knows). Nor where the gate sent the call once and whether it may be sent again\n\
         is for the client to judge: with `retries = 0`, an outcome that `retry_on` does not list, a request that is not\n\
         repeatable, a body that was too large to keep. A handler of a function sees it as headers of the answer; what nobody\n\
         answered is an error code of `wasi:http`, which has no room for it.\n",
    );
    for (heading, kinds) in KINDS {
        page.push_str(&format!("\n## {heading}\n\n| kind | status | when |\n|---|---|---|\n"));
        for Kind { name, status, meaning } in *kinds {
            page.push_str(&format!("| `{name}` | {status} | {meaning} |\n"));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_kind_stands_twice_and_each_is_a_path_segment() {
        let mut names = HashSet::new();
        for kind in KINDS.iter().flat_map(|(_, kinds)| kinds.iter()) {
            assert!(names.insert(kind.name), "{}", kind.name);
            assert!(kind.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", kind.name);
            assert!(StatusCode::from_u16(kind.status).unwrap().as_u16() >= 400, "{}", kind.name);
        }
    }
}
