//! Owns: the order of one connection's answers. Requests that were pipelined are answered in their order; one that
//! waits holds its slot, not the thread, and the answers behind it wait here, rendered.
//! Never: what the answers say; sockets.

use std::collections::VecDeque;

/// A slot: what is kept of a request until its turn comes, and its answer if that came early.
#[derive(Debug)]
struct Slot<A> {
    about: A,
    early: Option<Vec<u8>>,
    is_answered: bool,
}

/// See the module. `A`: what the answer's rendering needs to know of the request.
#[derive(Debug)]
pub struct Pipeline<A> {
    slots: VecDeque<Slot<A>>,
    /// The number of the first slot.
    first: u64,
    early_bytes: usize,
}

impl<A> Default for Pipeline<A> {
    fn default() -> Self {
        Self { slots: VecDeque::new(), first: 0, early_bytes: 0 }
    }
}

impl<A: Copy> Pipeline<A> {
    /// A request came in: its number on this connection.
    pub fn push(&mut self, about: A) -> u64 {
        let number = self.pushed();
        self.slots.push_back(Slot { about, early: None, is_answered: false });
        number
    }

    /// Answers request `number`: `render` appends the answer to `out` if it is this request's turn, followed by the
    /// answers that waited behind it; otherwise it is kept. `None`: it was answered already.
    pub fn answer(&mut self, number: u64, out: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>, A)) -> Option<A> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(at).filter(|slot| !slot.is_answered)?;
        slot.is_answered = true;
        let about = slot.about;
        if at > 0 {
            let mut bytes = Vec::new();
            render(&mut bytes, about);
            self.early_bytes += bytes.len();
            slot.early = Some(bytes);
            return Some(about);
        }
        render(out, about);
        self.pop();
        while let Some(slot) = self.slots.front_mut().filter(|slot| slot.is_answered) {
            let bytes = slot.early.take().expect("an answer before its turn is kept");
            out.extend_from_slice(&bytes);
            self.early_bytes -= bytes.len();
            self.pop();
        }
        Some(about)
    }

    fn pop(&mut self) {
        self.slots.pop_front();
        self.first += 1;
        if self.slots.is_empty() && self.slots.capacity() > 16 {
            self.slots = VecDeque::new();
        }
    }

    /// Requests that ever came in.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Requests without an answer, or whose answer waits for its turn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether every request was answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of answers that wait for their turn.
    #[must_use]
    pub fn early_bytes(&self) -> usize {
        self.early_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_leave_in_the_order_of_their_requests(order in Just((0..20u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut pipeline = Pipeline::default();
            for n in 0..20u64 {
                assert_eq!(pipeline.push(n), n);
            }
            let mut out = Vec::new();
            for n in order {
                assert_eq!(pipeline.answer(n, &mut out, |out, about| out.push(about as u8)), Some(n));
                assert_eq!(pipeline.answer(n, &mut out, |_, _| panic!("answered twice")), None);
            }
            prop_assert_eq!(out, (0..20u8).collect::<Vec<_>>());
            prop_assert!(pipeline.is_empty());
            prop_assert_eq!(pipeline.early_bytes(), 0);
            prop_assert_eq!(pipeline.push(7), 20);
            prop_assert_eq!(pipeline.pushed(), 21);
        }
    }
}
