//! Every malformed request of `http_cases` against the decoder and the calls, whole and in any two pieces: the
//! answers and what comes behind them do not depend on how the bytes arrive.

use dkv::http::{Decoder, KnownLines, Limits, Step};
use dkv::op::Verb;
use dkv::server::api::{self, Call, Scratch};
use dkv::server::browser::AllowedHosts;
use http_cases::{Case, End, all};

mod http_cases;

/// The answers of a server without a store, in which every key is absent.
fn serve<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u16>, End) {
    let (limits, hosts, mut scratch) = (Limits::default(), AllowedHosts::default(), Scratch::default());
    let (mut decoder, mut known, mut buf, mut answers) =
        (Decoder::default(), KnownLines::default(), Vec::new(), Vec::new());
    let mut early = None;
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.step(&mut buf, &limits, &mut known) {
                Step::Partial(keep) => {
                    buf.truncate(keep);
                    break;
                }
                Step::Head(head) => early = Some(api::admit(&head, &limits, &hosts).map_err(|e| (e.status, e.code))),
                Step::Complete(request, consumed) => {
                    let call = api::call(&request, &limits, &hosts, &mut scratch);
                    if let Some(Err(refusal)) = early.take() {
                        let late = call.as_ref().map_err(|e| (e.status, e.code)).map(|_| ());
                        assert_eq!(late, Err(refusal), "what is refused before the body is refused behind it");
                    }
                    answers.push(match call {
                        Ok(Call::Data(op)) if op.verb != Verb::Set => 404,
                        Ok(_) => 200,
                        Err(refusal) => refusal.status,
                    });
                    if !request.head.keep_alive {
                        return (answers, End::Closes);
                    }
                    buf.drain(..consumed);
                }
                Step::Reject(reject) => {
                    answers.push(reject.status);
                    return (answers, End::Closes);
                }
            }
        }
    }
    let idle = buf.is_empty() && !answers.is_empty();
    (answers, if idle { End::Open } else { End::Waits })
}

fn check(case: &Case, how: &str, got: (Vec<u16>, End)) {
    assert_eq!(got, (case.answers.to_vec(), case.end), "{} ({how}): {}", case.name, shown(&case.bytes));
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(400)].escape_ascii().to_string()
}

#[test]
fn every_case_has_its_own_name_and_there_are_enough() {
    let mut names: Vec<String> = all().into_iter().map(|c| c.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(all().iter().filter(|c| c.end == End::Closes).count() >= 120, "{count}");
}

#[test]
fn every_case_gets_its_answer() {
    for case in all() {
        check(&case, "whole", serve([case.bytes.as_slice()]));
        check(&case, "byte by byte", serve(case.bytes.chunks(1)));
        if let Some((rest, status)) = &case.rest {
            assert_eq!(serve([case.bytes.as_slice(), rest]).0, [*status], "{}", case.name);
        }
    }
}

#[test]
fn every_case_gets_its_answer_however_it_is_split() {
    for case in all().into_iter().filter(|c| c.bytes.len() < 2000) {
        for at in 1..case.bytes.len() {
            let (a, b) = case.bytes.split_at(at);
            check(&case, &format!("split at {at}"), serve([a, b]));
        }
    }
}

#[test]
fn every_case_gets_its_answer_behind_another_request() {
    let before: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for case in all().into_iter().filter(|c| !c.bytes.starts_with(b"\r\n")) {
        let (answers, end) = serve([[before, &case.bytes].concat().as_slice()]);
        let expected = [&[200], case.answers].concat();
        let end = if case.bytes.is_empty() { End::Waits } else { end };
        assert_eq!((answers, end), (expected, case.end), "{}: {}", case.name, shown(&case.bytes));
    }
}
