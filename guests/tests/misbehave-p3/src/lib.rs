//! A guest over WASI 0.3 that does one wrong thing for each path, for the host's tests. README.md lists the paths.

mod greedy;
mod partial;

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Misbehave;

/// In nanoseconds. A guest that waits for nothing at all would trap.
const HOUR: u64 = 3_600_000_000_000;

wasip3::http::service::export!(Misbehave);

impl Guest for Misbehave {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = |name: &str, default: u64| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.parse().ok())?)
                .unwrap_or(default)
        };
        match path {
            "/" => {}
            "/spin" => greedy::spin(),
            "/alloc" => greedy::alloc(),
            "/recurse" => return answer(&format!("{}\n", greedy::recurse(1))),
            "/trap" => core::arch::wasm32::unreachable(),
            "/exit" => wasip3::cli::exit::exit(Ok(())),
            "/log" => greedy::log(),
            "/work" => loop {
                greedy::compute(number("ms", 2));
                wait_for(1_000_000).await;
            },
            "/never" => wait_for(HOUR).await,
            "/naps" => loop {
                wait_for(1).await;
            },
            "/yield" => loop {
                wasip3::wit_bindgen::yield_async().await;
            },
            "/streams" => return answer(&greedy::streams(number("n", 1_000_000))),
            "/futures" => return answer(&greedy::futures(number("n", 1_000_000))),
            "/fields" => return answer(&greedy::fields(number("n", 20_000), number("bytes", 30_000))),
            "/timers" => return answer(&greedy::timers(number("n", 1_000_000)).await),
            "/requests" => return answer(&greedy::requests(number("n", 1_000_000))),
            "/partial" => return partial::answer(request, number("k", 10)).await,
            "/partial-call" => return partial::answer_of_call(number("k", 10)).await,
            "/partial-out" => return partial::call(request, number("k", 10)).await,
            "/after" => {
                let spins = query.contains("do=spin");
                let trap_after = query.contains("do=trap").then(|| number("ms", 200) * 1_000_000);
                wasip3::spawn_local(async move {
                    wait_for(10_000_000).await;
                    if spins {
                        greedy::spin();
                    }
                    if let Some(time) = trap_after {
                        wait_for(time).await;
                        core::arch::wasm32::unreachable();
                    }
                    wait_for(HOUR).await;
                });
                return answer("answered\n");
            }
            "/after-head" => return body(&[], Ending::Never, b""),
            "/endless" => return body(&[], Ending::Endless, &[b'x'; 64 * 1024]),
            "/half" => return body(&[], Ending::Dropped, b"half of "),
            "/length" => {
                let promised = number("promised", 0).to_string();
                return body(&[("content-length", &promised)], Ending::Whole, &vec![b'x'; number("n", 0) as usize]);
            }
            "/short" => return body(&[("content-length", "10")], Ending::Whole, b"four"),
            _ => return answer("no such path\n"),
        }
        answer("misbehave-p3\n")
    }
}

/// How an answer's body ends.
enum Ending {
    Whole,
    Dropped,
    Endless,
    Never,
}

/// A 200 with a text.
fn answer(text: &str) -> Result<Response, ErrorCode> {
    body(&[], Ending::Whole, text.as_bytes())
}

/// A 200 with these bytes, written while the host reads them.
fn body(headers: &[(&str, &str)], ending: Ending, bytes: &[u8]) -> Result<Response, ErrorCode> {
    let list: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    let fields = Fields::from_list(&list).map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))?;
    let (mut writer, reader) = wit_stream::new();
    let (trailers, trailers_reader) =
        wit_future::new(|| Err(ErrorCode::InternalError(Some("left in the middle".to_owned()))));
    let (response, _sent) = Response::new(fields, Some(reader), trailers_reader);
    let bytes = bytes.to_vec();
    wasip3::spawn_local(async move {
        match ending {
            Ending::Whole => {
                let _unsent = writer.write_all(bytes).await;
                drop(writer);
                let _unread = trailers.write(Ok(None)).await;
            }
            Ending::Dropped => {
                let _unsent = writer.write_all(bytes).await;
            }
            Ending::Endless => while writer.write_all(bytes.clone()).await.is_empty() {},
            Ending::Never => {
                wait_for(HOUR).await;
                drop((writer, trailers));
            }
        }
    });
    Ok(response)
}
