//! Problems in the shape in which the clients of a language model understand errors: the fields that their libraries read,
//! and the problem itself beside them.

use serde_json::{Value, json};

use super::Problem;

/// The shape of an error's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// problem+json.
    #[default]
    Problem,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`.
    Anthropic,
    /// `{"error": {"code", "message", "status"}}`.
    Google,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Problem, Self::OpenAi, Self::Anthropic, Self::Google];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
        }
    }

    /// The media type.
    pub(super) fn media(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            _ => "application/json",
        }
    }
}

impl Problem {
    /// The body in another shape than its own.
    pub(super) fn shaped(&self) -> Value {
        let (status, message) = (self.status.as_u16(), format!("{}: {}", self.title, self.detail));
        let whole: Value = serde_json::from_slice(&self.problem_json()).unwrap_or_default();
        match self.shape {
            Shape::Problem => whole,
            Shape::OpenAi => {
                let kind = match status {
                    429 => "rate_limit_error",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                json!({"error": {"message": message, "type": kind, "param": null, "code": self.kind}, "tidegate": whole})
            }
            Shape::Anthropic => {
                let kind = match status {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    503 | 529 => "overloaded_error",
                    504 => "timeout_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}, "tidegate": whole})
            }
            Shape::Google => {
                let kind = match status {
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    502 | 503 => "UNAVAILABLE",
                    504 => "DEADLINE_EXCEEDED",
                    500.. => "INTERNAL",
                    _ => "INVALID_ARGUMENT",
                };
                json!({"error": {"code": status, "message": message, "status": kind}, "tidegate": whole})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn libraries_find_what_they_look_for_and_people_find_the_problem() {
        let problem = |shape| {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "deadline-unreachable", "Late", "in 5 s");
            let body: Value = serde_json::from_slice(&problem.shape(shape).to_json()).unwrap();
            body
        };
        assert_eq!(problem(Shape::Problem)["type"], "/problems/deadline-unreachable");
        let openai = problem(Shape::OpenAi);
        assert_eq!(openai["error"]["message"], "Late: in 5 s");
        assert_eq!(
            (&openai["error"]["type"], &openai["error"]["code"]),
            (&json!("rate_limit_error"), &json!("deadline-unreachable"))
        );
        let anthropic = problem(Shape::Anthropic);
        assert_eq!((&anthropic["type"], &anthropic["error"]["type"]), (&json!("error"), &json!("rate_limit_error")));
        let google = problem(Shape::Google);
        assert_eq!((&google["error"]["code"], &google["error"]["status"]), (&json!(429), &json!("RESOURCE_EXHAUSTED")));
        for shaped in [openai, anthropic, google] {
            assert_eq!(shaped["tidegate"]["type"], "/problems/deadline-unreachable");
        }
    }
}
