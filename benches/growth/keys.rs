//! Owns: which key is asked next: numbers in several orders, and a number's key.
//! Never: calls.

use crate::support::dice::Dice;

/// An order of keys, each a number.
#[derive(Clone)]
pub enum Keys {
    /// One after the other, from this one on.
    InTurn(u64),
    /// Any below the number.
    Uniform(u64, Dice),
    /// So many, evenly spread: multiples of the step.
    Few {
        count: u64,
        step: u64,
        dice: Dice,
    },
    Zipf(Box<Zipf>),
}

impl Keys {
    pub fn uniform(below: u64) -> Keys {
        Keys::Uniform(below, Dice::new(1))
    }

    pub fn few(count: u64, step: u64) -> Keys {
        Keys::Few { count, step, dice: Dice::new(2) }
    }

    pub fn zipf(below: u64) -> Keys {
        Keys::Zipf(Box::new(Zipf::new(below, 0.99)))
    }

    pub fn next(&mut self) -> u64 {
        match self {
            Keys::InTurn(next) => {
                *next += 1;
                *next - 1
            }
            Keys::Uniform(below, dice) => dice.below(*below),
            Keys::Few { count, step, dice } => dice.below(*count) * *step,
            Keys::Zipf(zipf) => zipf.next(),
        }
    }
}

/// A zipf distribution as YCSB has it (Gray et al., "Quickly generating billion-record synthetic databases"), its ranks
/// spread over the keys.
#[derive(Clone)]
pub struct Zipf {
    items: u64,
    theta: f64,
    zeta: f64,
    eta: f64,
    dice: Dice,
}

impl Zipf {
    fn new(items: u64, theta: f64) -> Zipf {
        let zeta: f64 = (1..=items).map(|rank| (rank as f64).powf(-theta)).sum();
        let zeta_of_two = 1.0 + 0.5_f64.powf(theta);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta_of_two / zeta);
        Zipf { items, theta, zeta, eta, dice: Dice::new(3) }
    }

    fn next(&mut self) -> u64 {
        // A prime: no two ranks meet, unless there are a multiple of it.
        self.rank() * 2_654_435_761 % self.items
    }

    fn rank(&mut self) -> u64 {
        let u = (self.dice.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let share = u * self.zeta;
        if share < 1.0 {
            return 0;
        }
        if share < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - self.theta));
        (rank as u64).min(self.items - 1)
    }
}

/// Appends the number's key, so many bytes: at least 16.
pub fn write_key(out: &mut Vec<u8>, number: u64, bytes: usize) {
    let end = out.len() + bytes;
    out.push(b'k');
    out.resize(end, b'0');
    let (mut at, mut rest) = (end, number);
    while rest > 0 {
        at -= 1;
        out[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}
