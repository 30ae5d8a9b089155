//! Storms of faults and contending proposals over simulated clusters, a seed each; then the faults stop, and all must
//! come to an end. `DKV_REGISTER_SEEDS=10000 cargo test registers` runs more of them; a failure names its seed.

use super::sim_tests::{Counts, Faults, Planted, Rng, Sim, table};

/// One run: what happened in it, or what was violated.
fn run(seed: u64, planted: Planted) -> Result<Counts, String> {
    let mut rng = Rng(seed ^ 0xdead_beef);
    let table = match rng.below(6) {
        0 => table(&[2], 1),
        1 => table(&[2, 2], 1),
        2 => table(&[3], 0),
        3 => table(&[2, 2, 2, 2], 0),
        4 => table(&[1, 2, 3], 2),
        _ => table(&[2], 0),
    };
    let faults = Faults {
        lost: rng.below(25),
        doubled: rng.below(20),
        late: rng.below(30),
        crashes: rng.below(12),
        wipes: rng.below(10),
        proposals: 20 + rng.below(200),
    };
    let mut sim = Sim::new(seed, table, planted);
    sim.start_all();
    sim.storm(faults, 3_000);
    sim.heal();
    sim.violation.map_or(Ok(sim.counts), |violation| Err(format!("seed {seed}: {violation}")))
}

#[test]
fn what_is_chosen_stays_chosen_and_all_comes_to_an_end() {
    let mut sum = Counts::default();
    let seeds = std::env::var("DKV_REGISTER_SEEDS").map_or(250, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let counts = run(seed, Planted::Nothing).unwrap_or_else(|violation| panic!("{violation}"));
        sum.settled += counts.settled;
        sum.applied += counts.applied;
        sum.crashes += counts.crashes;
        sum.wipes += counts.wipes;
        sum.mute_voters += counts.mute_voters;
        sum.formed += counts.formed;
    }
    println!("{seeds} seeds: {sum:?}");
    for (what, count, least) in [
        ("settled", sum.settled, 50),
        ("applied", sum.applied, 7),
        ("crashes", sum.crashes, 8),
        ("wipes", sum.wipes, 2),
        ("mute voters", sum.mute_voters, 2),
        ("formed", sum.formed, 3),
    ] {
        assert!(count >= least * seeds, "{what}: only {count}");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..5 {
        let twice = [0, 1].map(|_| format!("{:?}", run(seed, Planted::Nothing)));
        assert_eq!(twice[0], twice[1]);
    }
}

#[test]
fn planted_bugs_are_found() {
    for planted in [Planted::DurableTooEarly, Planted::SameIncarnation, Planted::Amnesia] {
        let found = (0..400).find_map(|seed| run(seed, planted).err());
        println!("{planted:?}: {found:?}");
        assert!(found.is_some(), "{planted:?} was not found");
    }
}
