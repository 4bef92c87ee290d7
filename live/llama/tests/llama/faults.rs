//! Servers that are not there, another's, or break.

use std::net::TcpListener;
use std::time::Duration;

use ol_engine::Error;

use crate::fake::{Fake, Reply};
use crate::support::{begin, generate, options, refusal, start, task, tiny};

/// Why a server is not relied on that misbehaves at one path.
fn refused(path: &'static str, reply: Reply) -> String {
    let fake = Fake::start(move |asked, _| if asked == path { reply.clone() } else { Reply::Good });
    refusal(tiny(), &options(&fake.address, 1)).replace(&fake.address, "URL")
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let found = refusal(tiny(), &options(&address, 1));
    let start = format!("no llama-server answers at {address}; start it, and check the address: no response: ");
    assert!(found.starts_with(&start), "{found}");
    let found = refusal(tiny(), &options("localhost:8080", 1));
    assert_eq!(found, "\"localhost:8080\" is no address of a llama-server; expected http://HOST:PORT");
}

#[test]
fn a_server_that_loads_is_waited_for() {
    let fake =
        Fake::start(|path, count| if path == "/health" && count == 0 { Reply::Status(503) } else { Reply::Good });
    assert_eq!(generate(&start(tiny(), &options(&fake.address, 1)), task("abc", 0.0, 0, 3)).tokens.len(), 3);
}

#[test]
fn another_model_is_refused_by_its_sizes_and_by_how_it_reads_text() {
    let meta = |meta: &str| refused("/v1/models", Reply::Text(format!(r#"{{"data":[{{"meta":{meta}}}]}}"#)));
    let other = "the llama-server at URL has loaded another model: ";
    let remedy = "start it with the file that this node serves";
    let vocabulary = format!("{other}49152 token ids against the 259 of the file; {remedy}");
    assert_eq!(meta(r#"{"n_vocab":49152,"size":0}"#), vocabulary);
    let size = format!("{other}7 bytes of weights against the 0 of the file; {remedy}");
    assert_eq!(meta(r#"{"n_vocab":259,"size":7}"#), size);
    let found = refused("/tokenize", Reply::Text(r#"{"tokens":[1,2]}"#.to_owned()));
    assert!(found.starts_with("the llama-server at URL reads \"The quick"), "{found}");
    assert!(found.ends_with(remedy), "{found}");
}

#[test]
fn something_else_at_the_address_is_named_as_such() {
    for (path, reply, cause) in [
        ("/props", Reply::Status(404), "status 404"),
        ("/props", Reply::Text("<html>".to_owned()), "not the JSON expected"),
        ("/tokenize", Reply::Text("{}".to_owned()), "not the JSON expected"),
        ("/completion", Reply::Status(501), "status 501"),
        ("/completion", Reply::Text(r#"{"content":"hi"}"#.to_owned()), "a response without log-probabilities"),
        ("/completion", Reply::Fewer(200), "56 log-probabilities, expected 256"),
    ] {
        let found = refused(path, reply);
        let expected =
            format!("what answers {path} at URL is no llama-server of 2025 or later; install a newer one: {cause}");
        assert!(found.starts_with(&expected), "{found}");
    }
}

#[test]
fn a_server_that_breaks_in_mid_stream_fails_the_task_and_not_the_engine() {
    let faults = [
        Reply::Status(500),
        Reply::Text("{\"completion_probabilities\":[{\"top".to_owned()),
        Reply::Text(r#"{"completion_probabilities":[]}"#.to_owned()),
        Reply::Huge((1 << 20) + 1),
        Reply::Silence,
        Reply::Close,
        Reply::Fewer(1),
    ];
    for fault in faults {
        let reply = fault.clone();
        // A connection that breaks is tried a second time.
        let last = if matches!(fault, Reply::Close) { 5 } else { 4 };
        let fake =
            Fake::start(
                move |path, count| {
                    if path == "/completion" && (4..=last).contains(&count) { reply.clone() } else { Reply::Good }
                },
            );
        let mut options = options(&fake.address, 1);
        if matches!(fault, Reply::Silence) {
            options.limits.next = Duration::from_secs(2);
        }
        let engine = start(tiny(), &options);
        assert_eq!(begin(&engine, task("abc", 0.0, 0, 20))().err(), Some(Error::Server), "{fault:?}");
        assert_eq!(generate(&engine, task("abc", 0.0, 0, 20)).tokens.len(), 20, "{fault:?}");
    }
}

#[test]
fn one_broken_connection_is_no_fault() {
    let fake = Fake::start(|path, count| if path == "/completion" && count == 4 { Reply::Close } else { Reply::Good });
    let engine = start(tiny(), &options(&fake.address, 1));
    assert_eq!(generate(&engine, task("abc", 0.0, 0, 20)).tokens.len(), 20);
}
