//! The reactor over real sockets: bounds of a turn, buffers that are lent, how connections end.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream as Std;

impl Kept for () {
    fn is_urgent(&self) -> bool {
        false
    }
}

struct One {
    number: usize,
    is_urgent: bool,
}

impl Kept for One {
    fn is_urgent(&self) -> bool {
        self.is_urgent
    }
}

fn reactor() -> (Reactor<()>, SocketAddr) {
    let reactor = Reactor::new("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = reactor.listener.as_ref().unwrap().local_addr().unwrap();
    (reactor, address)
}

fn turn_until(reactor: &mut Reactor<()>, mut done: impl FnMut(&mut Reactor<()>) -> bool) {
    let mut ready = Ready::default();
    loop {
        reactor.wait(Some(Duration::from_secs(20)), &mut ready).unwrap();
        if ready.accept {
            reactor.accept(100, |_| ());
        }
        if done(reactor) {
            return;
        }
    }
}

#[test]
fn bytes_that_are_left_come_back_before_the_new_ones() {
    let (mut reactor, address) = reactor();
    let mut client = Std::connect(address).unwrap();
    client.write_all(b"one two").unwrap();
    let mut seen = Vec::new();
    turn_until(&mut reactor, |reactor| {
        while let Some(id) = reactor.next_ready(false) {
            let (buffer, _) = reactor.read(id, 0);
            if buffer.len() >= 7 {
                seen = buffer.data().to_vec();
                reactor.give_back(id, buffer, 4);
                return true;
            }
            reactor.give_back(id, buffer, 0);
        }
        false
    });
    assert_eq!(seen, b"one two");
    assert_eq!(reactor.held_bytes(), 3);
    client.write_all(b" three").unwrap();
    turn_until(&mut reactor, |reactor| {
        while let Some(id) = reactor.next_ready(false) {
            let (buffer, _) = reactor.read(id, 0);
            seen = buffer.data().to_vec();
            let all = buffer.len();
            let finished = all >= 9;
            reactor.give_back(id, buffer, if finished { all } else { 0 });
            if finished {
                return true;
            }
        }
        false
    });
    assert_eq!(seen, b"two three");
    assert_eq!(reactor.held_bytes(), 0);
    assert!(reactor.scratch.capacity() >= READ_BYTES, "the shared buffer came back");
}

/// Reads a body of this length that one client sends, and says where in memory it came to stand.
fn body_at(reactor: &mut Reactor<()>, client: &Std, bytes: usize) -> *const u8 {
    let mut client = client.try_clone().unwrap();
    let sends = std::thread::spawn(move || client.write_all(&vec![b'x'; bytes]).unwrap());
    let mut at = std::ptr::null();
    let mut came = 0;
    turn_until(reactor, |reactor| {
        while let Some(id) = reactor.next_ready(false) {
            let (buffer, filled) = reactor.read(id, if came == 0 { 0 } else { bytes - came });
            came = buffer.len();
            at = buffer.data().as_ptr();
            let finished = came == bytes;
            reactor.give_back(id, buffer, if finished { bytes } else { 0 });
            if finished {
                return true;
            }
            if filled == Filled::More {
                reactor.again(id);
            }
        }
        false
    });
    sends.join().unwrap();
    at
}

/// A body of 1 MiB cost 256 page faults, a quarter of what it took to store it.
#[test]
fn a_large_body_takes_the_memory_of_the_one_before() {
    let (mut reactor, address) = reactor();
    let clients = [0; 3].map(|_| Std::connect(address).unwrap());
    let [first, second] = [0, 1].map(|n| body_at(&mut reactor, &clients[n], 1 << 20));
    assert_eq!(first, second);
    assert_ne!(first, body_at(&mut reactor, &clients[2], 200 << 10), "200 KiB would hold more than twice of that");
    assert_eq!(reactor.held_bytes(), 0);
}

#[test]
fn a_late_event_does_not_meet_the_next_tenant_of_a_slot() {
    let (mut reactor, address) = reactor();
    let _first = Std::connect(address).unwrap();
    turn_until(&mut reactor, |reactor| reactor.len() == 1);
    let old = reactor.iter_mut().next().unwrap().id;
    reactor.close(old);
    reactor.reap(|_| ());
    let _second = Std::connect(address).unwrap();
    turn_until(&mut reactor, |reactor| reactor.len() == 1);
    let new = reactor.iter_mut().next().unwrap().id;
    assert_eq!(old.slot, new.slot);
    assert!(reactor.get(old).is_none());
    assert!(reactor.get(new).is_some());
}

#[test]
fn what_a_turn_leaves_comes_first_in_the_next_and_the_urgent_apart() {
    let mut reactor = Reactor::<One>::new("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = reactor.listener.as_ref().unwrap().local_addr().unwrap();
    let mut ready = Ready::default();
    let wait = |reactor: &mut Reactor<One>, ready: &mut Ready| {
        reactor.wait(Some(Duration::from_secs(20)), ready).unwrap();
    };
    let mut clients: Vec<Std> = Vec::new();
    for number in 0..4 {
        clients.push(Std::connect(address).unwrap());
        while reactor.len() == number {
            wait(&mut reactor, &mut ready);
            reactor.accept(100, |_| One { number, is_urgent: number % 2 == 1 });
        }
    }
    let mut taken = Vec::new();
    let numbers: Vec<ConnId> = reactor.iter_mut().map(|conn| conn.id).collect();
    // That a fresh one is writable is its first event.
    while taken.len() < 4 {
        wait(&mut reactor, &mut ready);
        taken.extend([true, false].into_iter().filter_map(|is_urgent| reactor.next_ready(is_urgent)));
    }
    let order = |numbers: &[ConnId], of: &[usize]| of.iter().map(|at| numbers[*at]).collect::<Vec<_>>();
    assert_eq!(taken, order(&numbers, &[1, 0, 3, 2]));
    for again in [2, 0, 2] {
        reactor.again(numbers[again]);
    }
    wait(&mut reactor, &mut ready);
    reactor.again(numbers[2]);
    assert_eq!(reactor.next_ready(true), None);
    assert_eq!(reactor.next_ready(false), Some(numbers[2]));
    wait(&mut reactor, &mut ready);
    let rest: Vec<ConnId> = std::iter::from_fn(|| reactor.next_ready(false)).collect();
    assert_eq!(rest, order(&numbers, &[0, 2]), "what was left, then what is ready again");
}

#[test]
fn what_is_sent_in_a_turn_is_bounded_and_nothing_of_it_is_lost() {
    let mut reactor = Reactor::<One>::new("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = reactor.listener.as_ref().unwrap().local_addr().unwrap();
    let mut clients: Vec<Std> = Vec::new();
    let mut ready = Ready::default();
    let long = SENT_BYTES / 3 * 2;
    let lengths = [long, long, 32 * SENT_BYTES, 10];
    for number in 0..lengths.len() {
        clients.push(Std::connect(address).unwrap());
        while reactor.len() == number {
            reactor.wait(Some(Duration::from_secs(20)), &mut ready).unwrap();
            reactor.accept(100, |_| One { number, is_urgent: number == 2 });
        }
    }
    let ids: Vec<ConnId> = reactor.iter_mut().map(|conn| conn.id).collect();
    for (number, id) in ids.iter().enumerate() {
        reactor.output(*id, 0).unwrap().0.resize(lengths[number], number as u8);
    }
    let readers: Vec<_> = clients
        .into_iter()
        .zip(lengths)
        .map(|(mut client, length)| {
            std::thread::spawn(move || {
                let mut bytes = vec![0; length];
                client.read_exact(&mut bytes).map(|()| bytes)
            })
        })
        .collect();
    let mut order = Vec::new();
    let mut most = 0;
    while reactor.has_unsent() || reactor.iter_mut().any(|conn| conn.output_bytes() > 0) {
        let mut sent = [0; 4];
        let before: Vec<u64> = reactor.iter_mut().map(|conn| conn.written_bytes).collect();
        reactor.flush_dirty(1, 0, |conn| {
            let number = conn.state.number;
            order.push(number);
            sent[number] = conn.written_bytes - before[number];
        });
        most = most.max(sent[0] + sent[1] + sent[3]);
        assert_eq!(reactor.held_bytes(), reactor.iter_mut().map(|conn| conn.output.len() as u64).sum::<u64>());
        reactor.wait(Some(Duration::ZERO), &mut ready).unwrap();
        while let Some(id) = reactor.next_ready(true).or_else(|| reactor.next_ready(false)) {
            reactor.touch(id);
        }
    }
    assert!(most <= SENT_BYTES as u64, "{most}");
    assert_eq!(order[0], 2, "the urgent one first");
    for (number, reader) in readers.into_iter().enumerate() {
        assert!(reader.join().unwrap().unwrap().iter().all(|byte| *byte == number as u8));
    }
}

#[test]
fn one_that_takes_much_does_not_take_every_turn() {
    let (mut reactor, address) = reactor();
    let clients: Vec<Std> = (0..2).map(|_| Std::connect(address).unwrap()).collect();
    turn_until(&mut reactor, |reactor| reactor.len() == clients.len());
    let ids: Vec<ConnId> = reactor.iter_mut().map(|conn| conn.id).collect();
    reactor.output(ids[0], 0).unwrap().0.resize(2 * SENT_BYTES, 0);
    reactor.output(ids[1], 0).unwrap().0.resize(10, 0);
    // It has more than a turn's share each time.
    for _ in 0..2 {
        reactor.get(ids[0]).unwrap().output.resize(2 * SENT_BYTES, 0);
        reactor.flush_dirty(1, 0, |_| ());
    }
    assert_eq!(reactor.get(ids[1]).unwrap().output_bytes(), 0);
}

#[test]
fn a_burst_of_connections_is_accepted_to_its_end() {
    let (mut reactor, address) = reactor();
    // All of them wait before the one event of the listener is seen.
    let burst: Vec<Std> = (0..ACCEPTS_PER_TURN + 3).map(|_| Std::connect(address).unwrap()).collect();
    let mut turns = 0;
    turn_until(&mut reactor, |reactor| {
        turns += 1;
        assert!(turns < 5, "a turn waited in vain while connections were left in the queue");
        reactor.len() == burst.len()
    });
}

#[test]
fn the_beginnings_of_requests_hold_little_memory() {
    let (mut reactor, address) = reactor();
    let mut client = Std::connect(address).unwrap();
    let mut seen = 0;
    for part in ["GET ", "/get", "?key"] {
        client.write_all(part.as_bytes()).unwrap();
        seen += part.len();
        turn_until(&mut reactor, |reactor| {
            let mut left = 0;
            while let Some(id) = reactor.next_ready(false) {
                let (buffer, _) = reactor.read(id, 0);
                left = buffer.len();
                reactor.give_back(id, buffer, 0);
            }
            left == seen
        });
        let conn = reactor.iter_mut().next().unwrap();
        assert_eq!(conn.input_bytes(), seen);
        assert!(conn.input.capacity() < 256, "{} bytes hold {}", seen, conn.input.capacity());
    }
    assert_eq!(reactor.held_bytes(), seen as u64);
}

#[test]
fn output_that_the_socket_does_not_take_waits_for_it() {
    let (mut reactor, address) = reactor();
    let mut client = Std::connect(address).unwrap();
    turn_until(&mut reactor, |reactor| reactor.len() == 1);
    let id = reactor.iter_mut().next().unwrap().id;
    let bytes = vec![7u8; 32 << 20];
    reactor.output(id, 0).unwrap().0.extend_from_slice(&bytes);
    reactor.flush_dirty(5, 0, |_| ());
    assert!(reactor.held_bytes() > 0, "32 MiB fit into no socket buffer");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 32 << 20];
        client.read_exact(&mut all).unwrap();
        all
    });
    turn_until(&mut reactor, |reactor| {
        while let Some(id) = reactor.next_ready(false) {
            reactor.touch(id);
        }
        reactor.flush_dirty(6, 0, |_| ());
        reactor.held_bytes() == 0
    });
    assert!(reader.join().unwrap() == bytes);
}
