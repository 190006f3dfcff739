//! Destinations as people see them.

use serde_json::json;
use tidegate::ids::TenantId;

use crate::support::*;

#[tokio::test]
async fn destinations_are_shown_page_by_page_each_once_and_in_order() {
    let upstream = Upstream::start(|_| async { text(200, "") }).await;
    let gate = Gate::new(&[]);
    let matches = |name: &str| json!({"match": format!("https://{name}.example"), "max_concurrency": 1});
    let names = ["c", "a", "z", "d"];
    gate.configure(&names.map(|name| (name, matches(name))));
    gate.get(&upstream.url("/")).await.unwrap();
    let mut all = vec!["a".to_owned(), "c".into(), "d".into(), "z".into(), upstream.url("")];
    all.sort();
    for limit in 1..=6 {
        let (mut shown, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let page = gate.door.destinations(&TenantId::default_tenant(), after.as_deref(), limit);
            assert!(page.destinations.len() <= limit, "{limit}");
            shown.extend(page.destinations.iter().map(|destination| destination.destination.clone()));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((&shown, pages), (&all, all.len().div_ceil(limit)), "{limit} at once");
    }
}
