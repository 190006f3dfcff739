//! `Cache-Control`, of answers and of requests.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::LONGEST;

/// What an answer's `Cache-Control` says (RFC 9111 section 5.2.2, RFC 5861), as far as a shared cache minds it.
///
/// Names are read in any case, values bare or quoted. Where a time is stated twice, the shorter counts; one that makes
/// no sense is none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Store nothing.
    pub no_store: bool,
    /// For one user only. With fields named, too: what one of them is worth to another is not for us to judge.
    pub private: bool,
    /// Ask before each use. With fields named, too.
    pub no_cache: bool,
    /// Anybody may have it.
    pub public: bool,
    /// Never give it stale.
    pub must_revalidate: bool,
    /// Shared caches never give it stale.
    pub proxy_revalidate: bool,
    /// Does not change while it is fresh.
    pub immutable: bool,
    /// How long it is fresh.
    pub max_age: Option<Duration>,
    /// How long shared caches take it for fresh.
    pub s_maxage: Option<Duration>,
    /// How long it may be given stale while it is asked for.
    pub stale_while_revalidate: Option<Duration>,
    /// How long it may be given stale where asking fails.
    pub stale_if_error: Option<Duration>,
}

impl Control {
    /// What an answer says.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        directives(headers, |name, value| {
            let time = || value.and_then(seconds).unwrap_or_default();
            match name {
                "no-store" => control.no_store = true,
                "private" => control.private = true,
                "no-cache" => control.no_cache = true,
                "public" => control.public = true,
                "must-revalidate" => control.must_revalidate = true,
                "proxy-revalidate" => control.proxy_revalidate = true,
                "immutable" => control.immutable = true,
                "max-age" => shorter(&mut control.max_age, time()),
                "s-maxage" => shorter(&mut control.s_maxage, time()),
                "stale-while-revalidate" => shorter(&mut control.stale_while_revalidate, time()),
                "stale-if-error" => shorter(&mut control.stale_if_error, time()),
                _ => {}
            }
        });
        control
    }

    /// The same in one form: lower case, no quotes, nothing that is not understood. For libraries that read less forms.
    /// Nothing where there is nothing to say.
    pub fn plain(&self) -> Option<HeaderValue> {
        let flags = [
            (self.no_store, "no-store"),
            (self.private, "private"),
            (self.no_cache, "no-cache"),
            (self.public, "public"),
            (self.must_revalidate, "must-revalidate"),
            (self.immutable, "immutable"),
        ];
        let times = [(self.max_age, "max-age"), (self.s_maxage, "s-maxage")];
        let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
        let times = times.into_iter().filter_map(|(time, name)| time.map(|time| format!("{name}={}", time.as_secs())));
        let said: Vec<_> = flags.chain(times).collect();
        HeaderValue::try_from(said.join(", ")).ok().filter(|_| !said.is_empty())
    }
}

/// What a request says about the stored answers it takes (RFC 9111 section 5.2.1, RFC 5861 section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Have the upstream asked.
    pub no_cache: bool,
    /// Store nothing of this.
    pub no_store: bool,
    /// Do not ask the upstream.
    pub only_if_cached: bool,
    /// At most so old.
    pub max_age: Option<Duration>,
    /// Fresh for so long yet.
    pub min_fresh: Option<Duration>,
    /// Stale, too; at most for so long, where it says how long.
    pub max_stale: Option<Option<Duration>>,
    /// Stale for so long where asking fails.
    pub stale_if_error: Option<Duration>,
}

impl Demand {
    /// What a request says. `Pragma: no-cache` counts where there is no `Cache-Control`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut demand = Self::default();
        if !headers.contains_key(header::CACHE_CONTROL) {
            let pragma = headers.get(header::PRAGMA).and_then(|value| value.to_str().ok()).unwrap_or_default();
            demand.no_cache = pragma.to_ascii_lowercase().contains("no-cache");
            return demand;
        }
        directives(headers, |name, value| {
            let time = value.and_then(seconds);
            match name {
                "no-cache" => demand.no_cache = true,
                "no-store" => demand.no_store = true,
                "only-if-cached" => demand.only_if_cached = true,
                "max-age" => shorter(&mut demand.max_age, time.unwrap_or_default()),
                "min-fresh" => {
                    demand.min_fresh = Some(demand.min_fresh.unwrap_or_default().max(time.unwrap_or(LONGEST)))
                }
                // One without a time that makes sense takes none, one without a time takes any.
                "max-stale" => demand.max_stale = Some(value.map(|_| time.unwrap_or_default())),
                "stale-if-error" => shorter(&mut demand.stale_if_error, time.unwrap_or_default()),
                _ => {}
            }
        });
        demand
    }

    /// Whether any answer that was asked for since the request came does for it.
    pub fn is_plain(&self) -> bool {
        let Self { no_cache, no_store, only_if_cached, max_age, min_fresh, .. } = self;
        !no_cache && !no_store && !only_if_cached && max_age.is_none_or(|most| !most.is_zero()) && min_fresh.is_none()
    }
}

/// The shorter of two times, where there are two.
fn shorter(time: &mut Option<Duration>, other: Duration) {
    *time = Some(time.map_or(other, |time| time.min(other)));
}

/// A number of seconds. One that is too large is very long; anything else is nothing.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST))
}

/// Each directive of all lines: its name in lower case, its value without quotes.
fn directives(headers: &HeaderMap, mut each: impl FnMut(&str, Option<&str>)) {
    for line in headers.get_all(header::CACHE_CONTROL) {
        // A line of other bytes still says what stands in it in ASCII.
        let line = String::from_utf8_lossy(line.as_bytes());
        let mut rest: &str = &line;
        while !rest.is_empty() {
            let end = rest.find([',', '=']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let name = name.trim().to_ascii_lowercase();
            let (value, next) = match after.strip_prefix('=') {
                Some(value) => value_of(value.trim_start()),
                None => (None, after),
            };
            if !name.is_empty() {
                each(&name, value);
            }
            rest = next.find(',').and_then(|comma| next.get(comma + 1..)).unwrap_or_default();
        }
    }
}

/// A value and what follows it. Quotes that nothing ends are none: they would hide what stands behind them.
fn value_of(text: &str) -> (Option<&str>, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        if let Some((end, _)) = end {
            return (quoted.get(..end).map(str::trim), quoted.get(end + 1..).unwrap_or_default());
        }
    }
    let end = text.find(',').unwrap_or(text.len());
    let (value, next) = text.split_at(end);
    (Some(value.trim()), next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn what_an_answer_says_is_read_from_any_of_its_forms() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        let none = Control::default();
        for (lines, is) in [
            (&[""][..], none),
            (&["No-Store"], Control { no_store: true, ..none }),
            (&["PRIVATE"], Control { private: true, ..none }),
            (&["private=\"set-cookie, max-age=5\""], Control { private: true, ..none }),
            (&["ext=\"a, no-store\", max-age=5"], Control { max_age: secs(5), ..none }),
            (&["ext=\"a\\\", no-store\", max-age=5"], Control { max_age: secs(5), ..none }),
            (&["ext=\"max-age=5"], none),
            (&["ext=\"a, No-Store"], Control { no_store: true, ..none }),
            (&["max-age=\"5\""], Control { max_age: secs(5), ..none }),
            (&["Max-Age = 5 ,, public"], Control { max_age: secs(5), public: true, ..none }),
            (&["max-age=9, max-age=5"], Control { max_age: secs(5), ..none }),
            (&["max-age=9", "max-age=5"], Control { max_age: secs(5), ..none }),
            (&["max-age=-1"], Control { max_age: secs(0), ..none }),
            (&["max-age=1.5"], Control { max_age: secs(0), ..none }),
            (&["max-age"], Control { max_age: secs(0), ..none }),
            (&["max-age=99999999999999999999"], Control { max_age: Some(LONGEST), ..none }),
            (&["s-maxage=1, stale-if-error=2"], Control { s_maxage: secs(1), stale_if_error: secs(2), ..none }),
            (&["stale-while-revalidate=x"], Control { stale_while_revalidate: secs(0), ..none }),
            (&["no-cache, must-revalidate"], Control { no_cache: true, must_revalidate: true, ..none }),
        ] {
            assert_eq!(Control::of(&headers(lines)), is, "{lines:?}");
        }
        assert_eq!(Control::of(&headers(&["PUBLIC, max-age=\"5\", x=y"])).plain().unwrap(), "public, max-age=5");
        assert_eq!(Control::of(&headers(&["x=y"])).plain(), None);
    }

    #[test]
    fn what_a_request_says_is_read_likewise_and_pragma_where_there_is_nothing_else() {
        let secs = Duration::from_secs;
        let none = Demand::default();
        for (line, is) in [
            ("no-cache", Demand { no_cache: true, ..none }),
            ("Only-If-Cached", Demand { only_if_cached: true, ..none }),
            ("max-stale", Demand { max_stale: Some(None), ..none }),
            ("max-stale=3", Demand { max_stale: Some(Some(secs(3))), ..none }),
            ("max-stale=x", Demand { max_stale: Some(Some(secs(0))), ..none }),
            ("min-fresh=3, max-age=0", Demand { min_fresh: Some(secs(3)), max_age: Some(secs(0)), ..none }),
        ] {
            assert_eq!(Demand::of(&headers(&[line])), is, "{line}");
        }
        let mut pragma: HeaderMap = [(header::PRAGMA, HeaderValue::from_static("No-Cache"))].into_iter().collect();
        assert!(Demand::of(&pragma).no_cache);
        pragma.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!Demand::of(&pragma).no_cache);
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_and_what_is_written_reads_the_same(line in "[ -~\\t]{0,60}|((no-store|private|max-age|s-maxage)(=\"?[0-9a,]{0,4}\"?)?[, ]{0,3}){0,4}") {
            let control = Control::of(&headers(&[&line]));
            let plain: Vec<_> = control.plain().into_iter().collect();
            let again = Control::of(&plain.into_iter().map(|value| (header::CACHE_CONTROL, value)).collect());
            let kept = Control {
                proxy_revalidate: false, stale_if_error: None, stale_while_revalidate: None, ..control
            };
            prop_assert_eq!(again, kept);
        }

        #[test]
        fn nothing_makes_a_forbidden_answer_storable(before in "[a-z=,0-9 ]{0,20}", after in "[a-z=,0-9\" ]{0,20}") {
            let line = format!("{before},No-Store,{after}");
            prop_assert!(Control::of(&headers(&[&line])).no_store);
        }
    }
}
