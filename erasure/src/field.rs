//! The field GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator 2.
//!
//! Addition is xor. The tables are made by the compiler. The polynomial is not the one of AES, so
//! the instruction `gf2p8mulb` does not serve; a product with a constant is a linear map of eight
//! bits and goes by `gf2p8affineqb`, or by two tables of sixteen entries.

/// x^8 = x^4 + x^3 + x^2 + 1.
const REDUCTION: u8 = 0x1d;

/// Powers of 2, twice over, so that a sum of two logarithms needs no reduction.
const EXP: [u8; 510] = exp_table();

/// Logarithms to base 2; the entry of 0 is not used.
const LOG: [u8; 256] = log_table();

/// All products.
pub static PRODUCTS: [[u8; 256]; 256] = product_table();

/// Product of `a` and `b`.
pub const fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    EXP[LOG[a as usize] as usize + LOG[b as usize] as usize]
}

/// The number whose product with `a` is 1. `a` is not 0.
pub const fn invert(a: u8) -> u8 {
    assert!(a != 0, "zero has no inverse");
    EXP[255 - LOG[a as usize] as usize]
}

/// `a` to the power `exponent`; the power 0 is 1 for every `a`.
pub const fn power(a: u8, exponent: usize) -> u8 {
    if exponent == 0 {
        return 1;
    }
    if a == 0 {
        return 0;
    }
    EXP[LOG[a as usize] as usize * exponent % 255]
}

/// The product with one constant, in the forms the kernels want.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 uses every form"))]
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// The constant.
    pub value: u8,
    /// Products with 0..16, then products with 0, 16, .. 240.
    pub nibbles: [u8; 32],
    /// The linear map as `gf2p8affineqb` takes it: the row that makes bit `i` of the result is
    /// byte `7 - i`, least significant byte first.
    pub affine: u64,
}

impl Factor {
    /// Prepares the product with `value`.
    pub fn new(value: u8) -> Factor {
        let mut nibbles = [0; 32];
        for digit in 0..16u8 {
            nibbles[usize::from(digit)] = multiply(value, digit);
            nibbles[usize::from(digit) + 16] = multiply(value, digit << 4);
        }
        let mut affine = 0;
        for column in 0..8 {
            let image = multiply(value, 1 << column);
            for bit in 0..8 {
                affine |= u64::from(image >> bit & 1) << ((7 - bit) * 8 + column);
            }
        }
        Factor { value, nibbles, affine }
    }
}

const fn exp_table() -> [u8; 510] {
    let mut table = [0; 510];
    let mut value: u8 = 1;
    let mut exponent = 0;
    while exponent < 510 {
        table[exponent] = value;
        value = value << 1 ^ if value & 0x80 != 0 { REDUCTION } else { 0 };
        exponent += 1;
    }
    table
}

const fn log_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut exponent = 0;
    while exponent < 255 {
        table[EXP[exponent] as usize] = exponent as u8;
        exponent += 1;
    }
    table
}

const fn product_table() -> [[u8; 256]; 256] {
    let mut table = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        let mut b = 0;
        while b < 256 {
            table[a][b] = multiply(a as u8, b as u8);
            b += 1;
        }
        a += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Factor, PRODUCTS, invert, multiply, power};

    /// Product by the schoolbook, bit by bit.
    fn multiply_slowly(a: u8, b: u8) -> u8 {
        let mut product = 0u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11d << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn products_are_those_of_the_polynomial() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), multiply_slowly(a, b));
                assert_eq!(PRODUCTS[usize::from(a)][usize::from(b)], multiply(a, b));
            }
        }
    }

    #[test]
    fn inverse_and_power_follow_from_products() {
        for a in 1..=255 {
            assert_eq!(multiply(a, invert(a)), 1);
        }
        for a in 0..=255 {
            let mut expected = 1;
            for exponent in 0..40 {
                assert_eq!(power(a, exponent), expected);
                expected = multiply(expected, a);
            }
        }
    }

    #[test]
    fn every_form_of_a_factor_gives_the_product() {
        for value in 0..=255 {
            let factor = Factor::new(value);
            for x in 0..=255u8 {
                let by_nibbles = factor.nibbles[usize::from(x & 15)] ^ factor.nibbles[usize::from(x >> 4) + 16];
                assert_eq!(by_nibbles, multiply(value, x));
                let mut by_affine = 0;
                for bit in 0..8 {
                    let row = factor.affine.to_le_bytes()[7 - bit];
                    by_affine |= (((row & x).count_ones() & 1) as u8) << bit;
                }
                assert_eq!(by_affine, multiply(value, x));
            }
        }
    }
}
