//! A call with everything about it chosen by the query, and everything that came of it as text.

use crate::{internal, percent_decode, text, value};
use wasip3::http::types::{ErrorCode, Fields, HeaderError, Method, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

/// `?authority=&path=&method=&scheme=&header=NAME:VALUE&body=&trailer=NAME:VALUE&fail=1`. What is not there is not set.
pub(crate) async fn send(query: &str) -> Result<Response, ErrorCode> {
    let stated = |name| value(query, name).map(percent_decode);
    let headers = match fields(stated("header")) {
        Ok(headers) => headers,
        Err(error) => return text(200, &format!("header: {error:?}\n")),
    };
    let (contents, mut writer) = match stated("body") {
        Some(_) => {
            let (writer, reader) = wit_stream::new();
            (Some(reader), Some(writer))
        }
        None => (None, None),
    };
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (request, sent) = Request::new(headers, contents, trailers_reader, None);
    let set = [
        request.set_method(&method(stated("method").as_deref().unwrap_or("GET"))),
        request.set_scheme(stated("scheme").map(scheme).as_ref()),
        request.set_authority(stated("authority").as_deref()),
        request.set_path_with_query(stated("path").as_deref()),
    ];
    if set.iter().any(Result::is_err) {
        return text(200, &format!("set: {set:?}\n"));
    }
    let (body, trailer, fails) = (stated("body"), stated("trailer"), value(query, "fail").is_some());
    wasip3::spawn_local(async move {
        if let Some(writer) = &mut writer {
            writer.write_all(body.unwrap_or_default().into_bytes()).await;
        }
        drop(writer);
        let last = match (fails, trailer) {
            (true, _) => Err(internal("no trailers after all")),
            (false, None) => Ok(None),
            (false, trailer) => fields(trailer).map(Some).map_err(internal),
        };
        let _unread = trailers.write(last).await;
    });
    let answer = wasip3::http::client::send(request).await;
    let sent = sent.await;
    let mut told = match answer {
        Err(error) => format!("send: {error:?}\n"),
        Ok(response) => read(response).await,
    };
    told.push_str(&format!("sent: {sent:?}\n"));
    text(200, &told)
}

async fn read(response: Response) -> String {
    let status = response.get_status_code();
    let (done, done_reader) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, done_reader);
    drop(done);
    let body = String::from_utf8_lossy(&body.collect().await).into_owned();
    let trailers = trailers.await.map(|trailers| trailers.map(|fields| named(&fields)));
    format!("send: {status}\nbody: {body}\ntrailers: {trailers:?}\n")
}

fn named(fields: &Fields) -> Vec<String> {
    let pair = |(name, value): (String, Vec<u8>)| format!("{name}: {}", String::from_utf8_lossy(&value));
    fields.copy_all().into_iter().map(pair).collect()
}

/// `NAME:VALUE`, or nothing.
fn fields(pair: Option<String>) -> Result<Fields, HeaderError> {
    let fields = Fields::new();
    if let Some((name, value)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
        fields.append(name, value.as_bytes())?;
    }
    Ok(fields)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    }
}

fn scheme(name: String) -> Scheme {
    match name.as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => Scheme::Other(name),
    }
}
