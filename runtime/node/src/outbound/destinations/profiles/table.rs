//! The profiles. Data only: each fact is of the sources that its profile names.

use std::time::Duration;

use tidegate_core::Repeatable;

use super::Profile;
use crate::problem::Shape;

/// Whole completions are written before the head of an answer that is not streamed.
const LLM_DEADLINE: Option<Duration> = Some(Duration::from_secs(600));
const LLM_FIRST_BYTE: Option<Duration> = Some(Duration::from_secs(300));

/// That of a destination that names none, on a host that is not known.
pub(in super::super) static GENERIC: Profile = Profile {
    // They mean nothing else, whoever says them.
    final_codes: &[
        "insufficient_quota",
        "insufficient_credits",
        "insufficient_balance",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "enforced_spend_limit_reached",
        "credit balance is too low",
        "reached your specified api usage limits",
    ],
    ..NOTHING
};

/// What OpenAI says of credit and spend limits, and what services that copy its API do.
const OUT_OF_CREDIT: &[&str] = &[
    "insufficient_quota",
    "insufficient_credits",
    "insufficient_balance",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
];

const NOTHING: Profile = Profile {
    name: "generic",
    about: "any HTTP API",
    checked: "",
    sources: &[],
    hosts: &[],
    keys: &[],
    split_by: &[],
    deadline: None,
    first_byte: None,
    repeatable: Repeatable::Keyed,
    completions: &[],
    final_statuses: &[],
    final_codes: &[],
    shape: Shape::Problem,
    estimates_tokens: false,
    reads_usage: false,
    asks_usage: &[],
    asks_since: None,
};

/// Of language models.
const MODELS: Profile = Profile {
    deadline: LLM_DEADLINE,
    first_byte: LLM_FIRST_BYTE,
    shape: Shape::OpenAi,
    estimates_tokens: true,
    reads_usage: true,
    ..NOTHING
};

static OPENAI: Profile = Profile {
    name: "openai",
    about: "OpenAI, and services that copy its API",
    checked: "2026-11-26",
    sources: &[
        "https://developers.openai.com/api/docs/guides/rate-limits",
        "https://learn.microsoft.com/en-us/microsoft-cloud/dev/dev-proxy/concepts/openai-insufficient-quota",
    ],
    hosts: &["api.openai.com"],
    keys: &["header:authorization"],
    split_by: &["header:authorization", "body:/model"],
    completions: &["/completions", "/responses", "/embeddings", "/moderations"],
    asks_usage: &["/completions"],
    final_codes: OUT_OF_CREDIT,
    ..MODELS
};

static AZURE_OPENAI: Profile = Profile {
    name: "azure-openai",
    about: "Azure OpenAI",
    checked: "2026-11-26",
    sources: &[
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/quotas-limits",
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/api-version-deprecation",
    ],
    hosts: &["*.openai.azure.com"],
    keys: &["header:api-key", "header:authorization"],
    // Names of deployments are names of resources: no two differ in case alone. Without a dated version the model of the
    // body is one of them.
    split_by: &["header:api-key", "header:authorization", "~path:/openai/deployments/{deployment}|body:/model"],
    completions: &["/completions", "/responses", "/embeddings"],
    asks_usage: &["/chat/completions"],
    final_codes: OUT_OF_CREDIT,
    asks_since: Some("2024-09-01"),
    ..MODELS
};

static ANTHROPIC: Profile = Profile {
    name: "anthropic",
    about: "Anthropic",
    checked: "2026-11-26",
    sources: &[
        "https://docs.aws.amazon.com/claude-platform/latest/userguide/rate-limits.html",
        "https://learn.microsoft.com/en-us/microsoft-cloud/dev/dev-proxy/concepts/anthropic-529-overloaded-error",
    ],
    hosts: &["api.anthropic.com"],
    keys: &["header:x-api-key", "header:authorization"],
    split_by: &["header:x-api-key", "header:authorization", "body:/model"],
    completions: &["/messages", "/complete", "/messages/count_tokens", "/chat/completions"],
    final_statuses: &[402],
    final_codes: &[
        "billing_error",
        "enforced_spend_limit_reached",
        "credit balance is too low",
        "reached your specified api usage limits",
    ],
    shape: Shape::Anthropic,
    ..MODELS
};

static OPENROUTER: Profile = Profile {
    name: "openrouter",
    about: "OpenRouter",
    checked: "2026-11-26",
    sources: &[
        "https://openrouter.ai/docs/api-reference/errors",
        "https://openrouter.ai/docs/api_reference/limits",
        "https://openrouter.ai/docs/guides/overview/auth/api-keys",
    ],
    hosts: &["openrouter.ai"],
    keys: &["header:authorization", "header:x-api-key"],
    split_by: &["header:authorization", "header:x-api-key", "body:/model"],
    completions: &["/completions", "/responses", "/messages", "/embeddings"],
    final_statuses: &[402],
    final_codes: OUT_OF_CREDIT,
    ..MODELS
};

static GEMINI: Profile = Profile {
    name: "gemini",
    about: "Gemini API",
    checked: "2026-11-26",
    sources: &["https://ai.google.dev/gemini-api/docs/troubleshooting"],
    hosts: &["generativelanguage.googleapis.com"],
    keys: &["header:x-goog-api-key", "header:authorization", "query:key"],
    // Beside its own it has OpenAI's paths, where the model is in the body.
    split_by: &[
        "header:x-goog-api-key|query:key",
        "header:authorization",
        "path:/*/models/{model}:*|path:/*/tunedModels/{model}:*|body:/model",
    ],
    completions: &[
        ":generateContent",
        ":streamGenerateContent",
        ":countTokens",
        ":embedContent",
        ":batchEmbedContents",
        "/completions",
        "/embeddings",
    ],
    final_statuses: &[402],
    shape: Shape::Google,
    ..MODELS
};

static STRIPE: Profile = Profile {
    name: "stripe",
    about: "Stripe",
    checked: "2026-11-26",
    sources: &["https://docs.stripe.com/rate-limits", "https://docs.stripe.com/api/idempotent_requests"],
    hosts: &["api.stripe.com"],
    keys: &["header:authorization"],
    split_by: &["header:authorization", "header:stripe-account"],
    ..NOTHING
};

static GITHUB: Profile = Profile {
    name: "github",
    about: "GitHub REST and GraphQL",
    checked: "2026-11-26",
    sources: &["https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"],
    hosts: &["api.github.com"],
    keys: &["header:authorization"],
    split_by: &["header:authorization"],
    // It knows no keys of idempotency.
    repeatable: Repeatable::Never,
    ..NOTHING
};

/// All of them.
pub(super) static PROFILES: [&Profile; 8] =
    [&GENERIC, &OPENAI, &AZURE_OPENAI, &ANTHROPIC, &OPENROUTER, &GEMINI, &STRIPE, &GITHUB];
