//! Random enough for a load, and the same for the same seed: splitmix64.

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any number but 0, which would end an adder's series.
    pub(crate) fn number(&mut self) -> i32 {
        loop {
            let number = self.bits() as i32;
            if number != 0 {
                return number;
            }
        }
    }

    /// From above 0 up to 1, 1 included: a logarithm can be taken of it.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        if least == most {
            return least;
        }
        least + (self.bits() % (most - least + 1) as u64) as usize
    }
}
