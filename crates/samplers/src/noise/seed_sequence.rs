//! numpy's `SeedSequence`: seeds for many generators from one number (O'Neill's seed_seq alternative). Knows no generator.

const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_LEFT: u32 = 0xca01_f9dd;
const MIX_RIGHT: u32 = 0x4973_f715;
const SHIFT: u32 = 16;

/// The first `n` words of the sequence with this entropy, spawned with these keys, from a pool of so many words.
pub(super) fn words(entropy: u64, spawn_key: &[u128], pool_size: usize, n: usize) -> Vec<u32> {
    let pool = mix(&assembled(entropy, spawn_key, pool_size), pool_size);
    let mut factor = INIT_B;
    let scramble = |word: &u32| {
        let mut value = word ^ factor;
        factor = factor.wrapping_mul(MULT_B);
        value = value.wrapping_mul(factor);
        value ^ (value >> SHIFT)
    };
    pool.iter().cycle().take(n).map(scramble).collect()
}

/// The entropy's words, padded to the pool so that spawned sequences differ from longer entropies, and the keys' words.
fn assembled(entropy: u64, spawn_key: &[u128], pool_size: usize) -> Vec<u32> {
    let mut all = words_of(u128::from(entropy));
    if !spawn_key.is_empty() && all.len() < pool_size {
        all.resize(pool_size, 0);
    }
    for key in spawn_key {
        all.extend(words_of(*key));
    }
    all
}

/// A number as 32-bit words, the lowest first, as few as it takes.
fn words_of(mut number: u128) -> Vec<u32> {
    let mut words = vec![number as u32];
    number >>= 32;
    while number > 0 {
        words.push(number as u32);
        number >>= 32;
    }
    words
}

fn mix(entropy: &[u32], pool_size: usize) -> Vec<u32> {
    let mut factor = INIT_A;
    let mut hash = |word: u32| {
        let mut value = word ^ factor;
        factor = factor.wrapping_mul(MULT_A);
        value = value.wrapping_mul(factor);
        value ^ (value >> SHIFT)
    };
    let join = |x: u32, y: u32| {
        let value = MIX_LEFT.wrapping_mul(x).wrapping_sub(MIX_RIGHT.wrapping_mul(y));
        value ^ (value >> SHIFT)
    };
    let mut pool: Vec<u32> = (0..pool_size).map(|i| hash(entropy.get(i).copied().unwrap_or(0))).collect();
    for source in 0..pool_size {
        for target in 0..pool_size {
            if source != target {
                pool[target] = join(pool[target], hash(pool[source]));
            }
        }
    }
    for word in entropy.iter().skip(pool_size) {
        for slot in &mut pool {
            *slot = join(*slot, hash(*word));
        }
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy.random.SeedSequence(entropy, spawn_key=key, pool_size=size).generate_state(4)
    #[test]
    fn words_equal_numpys() {
        assert_eq!(words(42, &[], 4, 4), [3444837047, 2669555309, 2046530742, 3581440988]);
    }
}
