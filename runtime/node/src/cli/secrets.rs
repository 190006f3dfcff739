//! `tidegate secrets`: set, bound, listed, removed. No command shows a value, and none takes one as an argument, where
//! others on the machine could read it.

use clap::{Args, Subcommand};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Map, Value, json};

use super::{
    api::{self, Api, segment},
    failure::{Exit, Failure},
    http as client,
    output::{Cell, Out, ago, note, now_ms, paint},
    prompt,
    target::{ClientArgs, ClientOnly, Named},
};
use crate::{body, cluster::registry::Place};

/// Arguments of `tidegate secrets`.
#[derive(Args, Debug)]
pub(super) struct SecretsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List secrets, without their values (default)
    Ls(ClientOnly),
    /// Set a secret's value, read from stdin or asked for
    #[command(after_help = "\
Example: tidegate secrets set OPENAI_API_KEY --function agent --destination openai\n\
A function whose configuration names the secret gets a handle in its environment; the value goes only to the \
destinations, in the place of the handle. Functions, destinations and places are added to those it has.")]
    Set(Set),
    /// Let a secret serve further functions, destinations or places
    Bind(Bind),
    /// Take functions or destinations away from a secret
    Unbind(Bind),
    /// Remove a secret: calls that need it are refused from then on
    Rm(Named),
}

#[derive(Args, Debug)]
struct Serves {
    /// Function that may have a handle of it. Repeatable
    #[arg(short, long = "function", value_name = "FUNCTION", value_delimiter = ',')]
    functions: Vec<String>,
    /// Destination it goes to. Repeatable
    #[arg(short, long = "destination", value_name = "DESTINATION", value_delimiter = ',')]
    destinations: Vec<String>,
    /// Where in a request it may stand: header:NAME, query:NAME. Default: authorization, x-api-key, api-key, x-goog-api-key. Repeatable
    #[arg(long = "in", value_name = "PLACE", value_delimiter = ',')]
    places: Vec<Place>,
}

#[derive(Args, Debug)]
struct Set {
    /// The secret, named as the variable that guests read
    name: String,
    /// Take the value from this variable
    #[arg(long, value_name = "VARIABLE")]
    from_env: Option<String>,
    #[command(flatten)]
    serves: Serves,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
struct Bind {
    /// The secret
    name: String,
    #[command(flatten)]
    serves: Serves,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: SecretsArgs, out: Out) -> Result<Exit, Failure> {
    match args.action {
        None => list(&Api::new(&args.client, out)?).await,
        Some(Action::Ls(only)) => list(&Api::new(&only.client, out)?).await,
        Some(Action::Set(set)) => {
            let value = match &set.from_env {
                Some(variable) => prompt::variable(variable)?,
                None => prompt::hidden(&format!("value of {}", set.name))?,
            };
            if value.is_empty() {
                return Err(Failure::new(Exit::Usage, "an empty text is no secret")
                    .next("give the value on stdin, or name a variable that holds it with --from-env"));
            }
            change(&Api::new(&set.client, out)?, &set.name, Some(value), |old| set.serves.added_to(old)).await
        }
        Some(Action::Bind(bind)) => {
            bind.serves.must_say_something()?;
            change(&Api::new(&bind.client, out)?, &bind.name, None, |old| bind.serves.added_to(old)).await
        }
        Some(Action::Unbind(bind)) => {
            bind.serves.must_say_something()?;
            change(&Api::new(&bind.client, out)?, &bind.name, None, |old| bind.serves.taken_from(old)).await
        }
        Some(Action::Rm(named)) => remove(&Api::new(&named.client, out)?, &named.name).await,
    }
}

async fn list(api: &Api) -> Result<Exit, Failure> {
    let answer = api.get("/v1/secrets", "listing secrets").await?;
    let secrets = answer.get("secrets").and_then(Value::as_array).cloned().unwrap_or_default();
    if api.out.is_json() {
        secrets.iter().try_for_each(|secret| api.out.value(secret))?;
        return Ok(Exit::Ok);
    }
    if secrets.is_empty() {
        api.out.line("there is no secret yet; `tidegate secrets set NAME` sets one")?;
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows: Vec<_> = secrets
        .iter()
        .map(|secret| {
            let joined = |key: &str| match texts(secret, key).join(", ") {
                empty if empty.is_empty() => "-".to_owned(),
                names => names,
            };
            vec![
                Cell::styled(secret.get("name").and_then(Value::as_str).unwrap_or_default(), paint::BOLD),
                joined("functions").into(),
                Some(goes_to(secret)).filter(|to| !to.is_empty()).unwrap_or("-".to_owned()).into(),
                joined("in").into(),
                secret.get("set_ms").and_then(Value::as_u64).map_or("-".into(), |then| ago(then, now)).into(),
            ]
        })
        .collect();
    api.out.table(&["name", "functions", "destinations", "in", "set"], &rows)?;
    secrets.iter().for_each(warn);
    Ok(Exit::Ok)
}

fn texts(secret: &Value, key: &str) -> Vec<String> {
    let list = secret.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn warn(secret: &Value) {
    for warning in texts(secret, "warnings") {
        note(format_args!("{warn}warning:{warn:#} {warning}", warn = paint::WARN));
    }
}

impl Serves {
    fn must_say_something(&self) -> Result<(), Failure> {
        if self.functions.is_empty() && self.destinations.is_empty() && self.places.is_empty() {
            return Err(Failure::new(Exit::Usage, "it is not said what to change")
                .next("name a function (--function), a destination (--destination) or a place (--in)"));
        }
        Ok(())
    }

    /// What the secret has from now on, of what changes. Destinations that it had stay what they were bound as; those that
    /// are named are bound as what they stand for now.
    fn added_to(&self, old: &Value) -> Map<String, Value> {
        let mut changes = Map::new();
        for (key, stated) in self.lists().into_iter().filter(|(_, stated)| !stated.is_empty()) {
            let mut all = texts(old, key);
            all.extend(stated);
            changes.insert(key.to_owned(), json!(all));
        }
        if !self.destinations.is_empty() {
            let mut all = origins(old);
            all.extend(self.destinations.iter().map(|name| (name.clone(), Value::Null)));
            changes.insert("destinations".into(), Value::Object(all));
        }
        changes
    }

    fn taken_from(&self, old: &Value) -> Map<String, Value> {
        let mut changes = Map::new();
        for (key, stated) in self.lists().into_iter().filter(|(_, stated)| !stated.is_empty()) {
            let mut left = texts(old, key);
            left.retain(|name| !stated.contains(name));
            changes.insert(key.to_owned(), json!(left));
        }
        if !self.destinations.is_empty() {
            let mut left = origins(old);
            left.retain(|name, _| !self.destinations.contains(name));
            changes.insert("destinations".into(), Value::Object(left));
        }
        changes
    }

    fn lists(&self) -> [(&'static str, Vec<String>); 2] {
        [("functions", self.functions.clone()), ("in", self.places.iter().map(ToString::to_string).collect())]
    }
}

/// What each destination of a secret stood for when it was bound.
fn origins(secret: &Value) -> Map<String, Value> {
    secret.get("origins").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Destinations with what they stand for, for people.
fn goes_to(secret: &Value) -> String {
    let each = |(name, origin): (&String, &Value)| format!("{name} ({})", origin.as_str().unwrap_or("?"));
    origins(secret).iter().map(each).collect::<Vec<_>>().join(", ")
}

/// Changes a secret from what it is now, and from nothing else.
async fn change(
    api: &Api,
    name: &str,
    value: Option<String>,
    serves: impl FnOnce(&Value) -> Map<String, Value>,
) -> Result<Exit, Failure> {
    let (path, doing) = (format!("/v1/secrets/{}", segment(name)), format!("setting `{name}`"));
    let old = match api.get(&path, &doing).await {
        Ok(old) => Some(old),
        Err(failure) if failure.problem_status() == Some(404) && value.is_some() => None,
        Err(failure) => return Err(failure),
    };
    let mut body = serves(old.as_ref().unwrap_or(&Value::Null));
    if let Some(value) = value {
        body.insert("value".into(), Value::String(value));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match old.as_ref().and_then(|old| old.get("revision")?.as_u64()) {
        Some(revision) => headers.insert(header::IF_MATCH, api::header_value(&format!("\"{revision}\""))?),
        None => headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*")),
    };
    let answer = api.send(Method::PUT, &path, headers, body::full(Value::Object(body).to_string()), &doing).await?;
    let made = api::parse(&client::read(answer.into_body()).await?, &doing)?;
    warn(&made);
    if api.out.is_json() {
        api.out.value(&made)?;
        return Ok(Exit::Ok);
    }
    let serves = [("for", texts(&made, "functions").join(", ")), ("to", goes_to(&made))];
    let serves = serves.iter().filter(|(_, names)| !names.is_empty());
    let serves: String = serves.map(|(word, names)| format!(", {word} {names}")).collect();
    let done = if old.is_some() { "changed" } else { "set" };
    api.out.line(format_args!("{name}: {done}{serves}"))?;
    Ok(Exit::Ok)
}

async fn remove(api: &Api, name: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/secrets/{}", segment(name));
    api.json(Method::DELETE, &path, None, &format!("removing `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&json!({"removed": name}))?;
    } else {
        api.out.line(format_args!("{name}: removed"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_added_or_taken_away_and_the_rest_stays() {
        let old = json!({"functions": ["a", "b"], "destinations": ["x", "y"], "in": ["header:authorization"],
            "origins": {"x": "https://x.example", "y": "https://y.example"}});
        let serves = Serves {
            functions: vec!["b".into(), "c".into()],
            destinations: Vec::new(),
            places: vec!["query:key".parse().unwrap()],
        };
        let added = serves.added_to(&old);
        assert_eq!(added["functions"], json!(["a", "b", "b", "c"]));
        assert_eq!(added["in"], json!(["header:authorization", "query:key"]));
        assert!(!added.contains_key("destinations"), "left out, it stays");
        assert_eq!(serves.taken_from(&old)["functions"], json!(["a"]));
        let named = Serves { functions: Vec::new(), destinations: vec!["y".into(), "z".into()], places: Vec::new() };
        let origins = json!({"destinations": {"x": "https://x.example", "y": null, "z": null}});
        assert_eq!(Value::Object(named.added_to(&old)), origins);
        assert_eq!(Value::Object(named.taken_from(&old)), json!({"destinations": {"x": "https://x.example"}}));
        let fresh = Serves { places: Vec::new(), ..serves }.added_to(&Value::Null);
        assert_eq!(Value::Object(fresh), json!({"functions": ["b", "c"]}));
    }
}
