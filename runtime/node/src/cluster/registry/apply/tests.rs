use super::*;
use crate::cluster::registry::{DestinationConfig, FunctionConfig, World};

fn version(routes: &[&str]) -> VersionRecord {
    VersionRecord {
        number: 0,
        digest: Digest([1; 32]),
        size: 10,
        world: World::Http02,
        reuse_safe: false,
        config: Arc::new(FunctionConfig {
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
            ..FunctionConfig::default()
        }),
        created_ms: 0,
        message: None,
        handles: None,
    }
}

fn add(name: &str, activate: bool, keep: usize) -> Command {
    add_routed(name, &[], activate, keep)
}

fn add_routed(name: &str, routes: &[&str], activate: bool, keep: usize) -> Command {
    Command::AddVersion {
        tenant: "t".into(),
        name: name.into(),
        version: version(routes),
        activate,
        if_revision: None,
        keep,
    }
}

fn activate(number: Option<u64>) -> Command {
    Command::Activate { tenant: "t".into(), name: "f".into(), version: number, if_revision: None }
}

fn put(name: &str, pattern: &str, if_revision: Option<u64>) -> Command {
    let config = Arc::new(DestinationConfig { r#match: pattern.into(), ..DestinationConfig::default() });
    Command::PutDestination { tenant: "t".into(), name: name.into(), config, if_revision }
}

#[test]
fn one_origin_has_one_destination_however_it_is_spelt() {
    let mut state = State::default();
    state.apply(put("first", "https://dup.example", None)).unwrap();
    for spelling in ["https://dup.example", "https://dup.example/", "https://DUP.example:443", "HTTPS://dup.example."] {
        let Err(Rejection::Conflict(why)) = state.apply(put("second", spelling, None)) else { panic!("{spelling}") };
        assert!(why.contains("`first`") && why.contains("`https://dup.example`"), "{why}");
    }
    for other in ["http://dup.example", "https://dup.example:8443", "https://dup.example:*", "https://*.dup.example"] {
        state.apply(put(&other.len().to_string(), other, None)).unwrap();
    }
    // Its own spelling can change.
    state.apply(put("first", "https://DUP.example/", None)).unwrap();
    // What a later release has stored is compared letter by letter.
    state.apply(put("later", "https://no such thing", None)).unwrap();
    assert!(state.apply(put("again", "https://no such thing", None)).is_err());
    state.apply(put("again", "https://no such other", None)).unwrap();
}

fn shape(state: &State) -> (Option<u64>, Vec<u64>) {
    let function = &state.functions[&("t".into(), "f".into())];
    (function.active, function.versions.keys().copied().collect())
}

#[test]
fn versions_are_kept_up_to_the_bound_and_never_the_active_one_dropped() {
    const ON: bool = true;
    const OFF: bool = false;
    // (commands as (activate, keep), active afterwards, versions afterwards)
    type Case = (&'static [(bool, usize)], Option<u64>, &'static [u64]);
    let table: &[Case] = &[
        (&[(ON, 2)], Some(1), &[1]),
        (&[(OFF, 2)], None, &[1]),
        (&[(ON, 2), (ON, 2), (ON, 2), (ON, 2)], Some(4), &[2, 3, 4]),
        (&[(ON, 2), (OFF, 2), (OFF, 2), (OFF, 2)], Some(1), &[1, 3, 4]),
        (&[(ON, 0), (OFF, 0)], Some(1), &[1, 2]),
        (&[(ON, 0), (OFF, 0), (OFF, 0)], Some(1), &[1, 3]),
        (&[(ON, 0), (ON, 0)], Some(2), &[2]),
    ];
    for (commands, active, versions) in table {
        let mut state = State::default();
        for (activate, keep) in *commands {
            state.apply(add("f", *activate, *keep)).unwrap();
        }
        assert_eq!(shape(&state), (*active, versions.to_vec()), "{commands:?}");
    }
}

#[test]
fn a_rollback_goes_to_the_version_before_the_active_one_and_no_further_than_there_are() {
    let mut state = State::default();
    for _ in 0..3 {
        state.apply(add("f", true, 10)).unwrap();
    }
    state.apply(activate(None)).unwrap();
    assert_eq!(shape(&state).0, Some(2));
    state.apply(activate(Some(3))).unwrap();
    state.apply(activate(Some(1))).unwrap();
    assert_eq!(state.apply(activate(None)), Err(Rejection::NoOlderVersion { name: "f".into() }));
    let missing = Rejection::NotFound { what: "version", name: "f@9".into() };
    assert_eq!(state.apply(activate(Some(9))), Err(missing));
    let revision = state.revision;
    let applied = state.apply(activate(Some(1))).unwrap();
    assert_eq!(applied, Applied { revision, change: None }, "already active: nothing changes");
}

#[test]
fn a_number_is_never_used_twice_not_even_by_a_function_that_was_deleted_and_made_again() {
    let mut state = State::default();
    let delete = |name: &str| Command::DeleteFunction { tenant: "t".into(), name: name.into(), if_revision: None };
    for _ in 0..3 {
        state.apply(add("f", true, 10)).unwrap();
    }
    let gone = state.apply(delete("f")).unwrap().change;
    assert!(matches!(gone, Some(Change::FunctionGone { highest: 3, forgotten: None, .. })), "{gone:?}");
    state.apply(add("f", true, 10)).unwrap();
    assert_eq!(shape(&state), (Some(4), vec![4]));
    state.apply(delete("f")).unwrap();
    // Far more are deleted than are remembered one by one.
    state.numbers = Arc::new((0..NUMBERS).map(|n| (("t".into(), format!("old-{n}").into()), 9)).collect());
    state.apply(add("g", true, 10)).unwrap();
    let gone = state.apply(delete("g")).unwrap().change;
    let forgotten = Some(("t".into(), "g".into()));
    assert!(matches!(&gone, Some(Change::FunctionGone { forgotten: f, .. }) if *f == forgotten), "{gone:?}");
    assert_eq!((state.numbers.len(), state.next_number(&"t".into(), &"g".into())), (NUMBERS, 2));
    assert_eq!(state.next_number(&"t".into(), &"old-7".into()), 10);
}

#[test]
fn a_revision_seen_before_a_change_is_refused_and_survives_no_deletion() {
    let mut state = State::default();
    state.apply(put("d", "https://a.example", Some(0))).unwrap();
    let seen = state.destinations[&("t".into(), "d".into())].revision;
    state.apply(put("d", "https://b.example", Some(seen))).unwrap();
    let changed = state.apply(put("d", "https://c.example", Some(seen)));
    assert!(matches!(changed, Err(Rejection::Changed { expected, .. }) if expected == seen));
    let gone = Command::DeleteDestination { tenant: "t".into(), name: "d".into(), if_revision: None };
    state.apply(gone.clone()).unwrap();
    assert!(matches!(state.apply(gone), Err(Rejection::NotFound { .. })));
    state.apply(put("d", "https://a.example", None)).unwrap();
    assert!(state.destinations[&("t".into(), "d".into())].revision > seen + 1, "never the same tag twice");
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut state = State::default();
    state.apply(add_routed("f", &["api.example.com/*"], true, 3)).unwrap();
    state.apply(put("d", "https://a.example", None)).unwrap();
    let before = format!("{state:?}");
    let refused = [
        add_routed("g", &["api.example.com/*"], true, 3),
        put("e", "https://a.example", None),
        put("d", "https://a.example", Some(99)),
        Command::DeleteFunction { tenant: "other".into(), name: "f".into(), if_revision: None },
        Command::RevokeToken { tenant: "t".into(), id: "none".into() },
    ];
    for command in refused {
        assert!(state.apply(command.clone()).is_err(), "{command:?}");
        assert_eq!(format!("{state:?}"), before, "{command:?}");
    }
    state.apply(add_routed("g", &["api.example.com/*"], false, 3)).unwrap();
}

#[test]
fn a_token_is_found_by_its_hash_until_it_is_revoked_and_a_new_one_takes_the_place_of_its_id() {
    let token = |hash: u8| TokenRecord {
        id: "admin".into(),
        tenant: "t".into(),
        label: String::new(),
        hash: Digest([hash; 32]),
        scopes: vec![Scope::Admin],
        created_ms: 0,
        weight: None,
    };
    let mut state = State::default();
    state.apply(Command::AddToken { token: token(1) }).unwrap();
    assert!(state.token(&Digest([1; 32])).is_some());
    state.apply(Command::AddToken { token: token(2) }).unwrap();
    assert!(state.token(&Digest([1; 32])).is_none());
    let revoke = |tenant: &str| Command::RevokeToken { tenant: tenant.into(), id: "admin".into() };
    assert!(state.apply(revoke("other")).is_err(), "another tenant's token");
    assert!(matches!(state.apply(revoke("t")), Err(Rejection::Conflict(_))), "nobody could make another one");
    state.apply(Command::AddToken { token: TokenRecord { id: "second".into(), ..token(3) } }).unwrap();
    state.apply(revoke("t")).unwrap();
    assert!(state.token(&Digest([2; 32])).is_none());
}

#[test]
fn a_scope_covers_itself_its_star_and_everything_where_it_is_admin() {
    let scope = |text: &str| Scope::try_from(text.to_owned()).unwrap();
    for (held, needed, covered) in [
        ("admin", "deploy", true),
        ("admin", "invoke:f", true),
        ("deploy", "deploy", true),
        ("deploy", "admin", false),
        ("deploy", "invoke:f", false),
        ("invoke:f", "invoke:f", true),
        ("invoke:f", "invoke:g", false),
        ("invoke:*", "invoke:g", true),
        ("invoke:*", "to:g", false),
        ("to:openai", "to:openai", true),
    ] {
        assert_eq!(scope(held).covers(&scope(needed)), covered, "{held} {needed}");
    }
}
