//! What the fake models say: a function of the conversation alone.

use serde_json::{Map, Value, json};

/// What a model decided to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    /// It says something.
    Says(String),
    /// It calls a tool with these arguments.
    Calls {
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
}

/// Characters of the prompt that an answer repeats.
const EXCERPT: usize = 200;

/// The model's turn after these messages.
///
/// A tool is called where a person's message names one that is offered, or where the caller insists on one; else the
/// answer repeats the beginning of the last message and carries a digest of all of them, so that a checker can tell
/// both which question was asked and whether anything before it differed.
pub(super) fn turn(model: &str, messages: &[(String, String)], tools: &[Tool], insist: bool) -> Turn {
    let last = messages.last().map(|(role, text)| (role.as_str(), text.as_str())).unwrap_or(("user", ""));
    let named = tools.iter().find(|tool| last.0 == "user" && last.1.contains(&tool.name));
    if let Some(tool) = named.or_else(|| tools.first().filter(|_| insist)) {
        return Turn::Calls { name: tool.name.clone(), arguments: arguments(&tool.schema, last.1) };
    }
    let mut digest = Fnv::default();
    digest.eat(model);
    for (role, text) in messages {
        digest.eat(role);
        digest.eat(text);
    }
    Turn::Says(format!("Mock answer {:08x} to: {}", digest.short(), excerpt(last.1)))
}

/// A tool as both dialects describe it.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    /// Its name.
    pub(super) name: String,
    /// JSON schema of its arguments.
    pub(super) schema: Value,
}

/// The text of a message's content: a string, or parts of which some are text.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<_> = parts
                .iter()
                .filter_map(|part| match part.get("text").or_else(|| part.get("content")) {
                    Some(Value::String(text)) => Some(text.clone()),
                    Some(nested @ Value::Array(_)) => Some(text_of(nested)),
                    _ => part.as_str().map(str::to_owned),
                })
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// Role and text of each message of a request.
pub(super) fn messages_of(messages: Option<&Value>) -> Vec<(String, String)> {
    let Some(Value::Array(messages)) = messages else { return Vec::new() };
    messages
        .iter()
        .map(|message| {
            let role = message.get("role").and_then(Value::as_str).unwrap_or("user");
            (role.to_owned(), message.get("content").map(text_of).unwrap_or_default())
        })
        .collect()
}

/// Roughly the tokens of a text: four characters each.
pub(super) fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

/// The text in the pieces in which it is streamed.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

/// A vector that depends on nothing but the text, of length one.
pub(super) fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let mut digest = Fnv::default();
    digest.eat(text);
    let raw: Vec<f32> = (0..dimensions)
        .map(|_| {
            digest.eat("+");
            f32::from(digest.0 as i16) / 32_768.0
        })
        .collect();
    let length = raw.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|value| value / length).collect()
}

fn excerpt(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(EXCERPT).collect()
}

/// The least object that fits a schema: each required property gets a value of its type.
fn arguments(schema: &Value, prompt: &str) -> Value {
    let mut object = Map::new();
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    for name in required.iter().filter_map(Value::as_str) {
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        object.insert(name.to_owned(), property.map_or(Value::Null, |property| value_for(property, prompt)));
    }
    Value::Object(object)
}

fn value_for(schema: &Value, prompt: &str) -> Value {
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
        return first.clone();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("integer" | "number") => json!(7),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => arguments(schema, prompt),
        _ => json!(excerpt(prompt)),
    }
}

/// FNV-1a: small, stable across releases and platforms, and nothing here needs more.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn eat(&mut self, text: &str) {
        // The end mark keeps ("ab", "c") and ("a", "bc") apart.
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn short(&self) -> u32 {
        (self.0 ^ (self.0 >> 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(texts: &[(&str, &str)]) -> Vec<(String, String)> {
        texts.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn the_same_conversation_gets_the_same_answer_and_another_one_another() {
        let say = |texts: &[(&str, &str)]| turn("m", &messages(texts), &[], false);
        let first = say(&[("system", "be kind"), ("user", "step 3: go\n on")]);
        assert_eq!(first, say(&[("system", "be kind"), ("user", "step 3: go\n on")]));
        assert_ne!(first, say(&[("system", "be curt"), ("user", "step 3: go\n on")]));
        let Turn::Says(text) = first else { panic!("it called a tool") };
        assert!(text.ends_with("to: step 3: go on"), "{text}");
    }

    #[test]
    fn a_tool_that_the_prompt_names_is_called_with_fitting_arguments_once() {
        let schema = json!({"type": "object", "required": ["city", "days", "unit"], "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]}, "more": {}}});
        let tools = [Tool { name: "get_weather".into(), schema }];
        let asked = messages(&[("user", "use get_weather")]);
        let Turn::Calls { name, arguments } = turn("m", &asked, &tools, false) else { panic!("no call") };
        assert_eq!(name, "get_weather");
        assert_eq!(arguments, json!({"city": "use get_weather", "days": 7, "unit": "c"}));
        let told = messages(&[("user", "use get_weather"), ("assistant", ""), ("tool", "get_weather says rain")]);
        assert!(matches!(turn("m", &told, &tools, false), Turn::Says(_)));
    }

    #[test]
    fn an_embedding_has_length_one_and_depends_on_the_text() {
        let one = embedding("a", 16);
        assert!((one.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_ne!(one, embedding("b", 16));
    }
}
