//! Owns: what a story does with a world.
//! Never: how a story is written ([`super::super::stories`]).

use super::*;

impl World {
    /// A network as it is on a good day.
    pub fn good_network(&mut self) {
        self.delay = (150_000, 100_000);
        self.heal_network();
    }

    /// A story's call, by its own connection. Returns its number.
    pub fn call(&mut self, at: usize, call: Call) -> u64 {
        self.calls += 1;
        let conn = ConnId { slot: STORY_SLOT, generation: self.calls as u32 };
        self.nodes[at].inbox.push_back(FromClient::Request(conn, self.calls, call));
        self.poke(at, self.now);
        self.calls
    }

    /// The answer to a story's call.
    pub fn answer_to(&mut self, number: u64) -> Option<Answer> {
        self.told.remove(&number)
    }

    /// Which process of a node runs.
    pub fn process_of(&self, at: usize) -> Option<u64> {
        self.nodes[at].process.as_ref().map(|_| self.nodes[at].starts)
    }

    pub fn ask(&mut self, at: usize, asked: Asked) {
        self.nodes[at].ask(asked);
        self.poke(at, self.now);
    }

    pub fn pause(&mut self, at: usize, spell: Nanos) {
        self.nodes[at].paused_until = self.now + spell;
    }

    /// Something happens in a story.
    pub fn befall(&mut self, what: &str, at: usize) {
        match what {
            "kill" => self.kill(at),
            "power" => self.power_loss(at),
            "start" => self.start(at).expect("it starts"),
            "stop" => self.ask(at, Asked::Stop),
            "wipe" => {
                self.kill(at);
                self.empty(at);
            }
            "hang" => self.nodes[at].machine.hang(),
            "works" => self.disk_works(at),
            "broken" => self.nodes[at].machine.fault_at(1, DiskFault::WriteError),
            "full" => {
                let machine = &self.nodes[at].machine;
                machine.set_capacity(machine.used_bytes());
            }
            "room" => self.nodes[at].machine.set_capacity(u64::MAX),
            "slow" => self.nodes[at].machine.set_pace(2 * SECOND, 2 * SECOND + 1),
            "fast" => self.nodes[at].machine.set_pace(50_000, 3 * MS),
            "rot" => self.flip_in(at, ".log"),
            "rotvoter" => self.flip_in(at, "voter"),
            "keep" => {
                let image = self.nodes[at].machine.fork(7);
                image.lose_power(7);
                self.images.insert(at, image);
            }
            "old" => {
                self.kill(at);
                let image = self.images.remove(&at).expect("an image was kept");
                image.put("voter", self.nodes[at].machine.read("voter"));
                self.checks.robbed.insert(NodeId(at as u32));
                self.checks.replaced(NodeId(at as u32));
                self.nodes[at].replace_machine(image);
                self.nodes[at].machine.set_pace(50_000, 3 * MS);
            }
            other => panic!("no such command: {other}"),
        }
    }

    /// A bit flips in the middle of what a file holds.
    fn flip_in(&mut self, at: usize, part: &str) {
        let machine = self.nodes[at].machine.clone();
        let (file, _) = machine.files().into_iter().find(|(name, _)| name.contains(part)).expect("there is one");
        self.checks.rotten.insert(NodeId(at as u32));
        self.checks.robbed.insert(NodeId(at as u32));
        self.nodes[at].has_rotten_voter |= file == "voter";
        machine.damage(&file, |bytes| {
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            let begins = if part == ".log" { 4096 } else { 0 };
            bytes[begins + (used - begins) / 2] ^= 4;
        });
    }
}
