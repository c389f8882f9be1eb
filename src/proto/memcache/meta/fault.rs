//! What is wrong with a line of the meta protocol.

/// What is wrong with a flag or its token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A flag twice.
    DuplicateFlag,
    /// A flag that there is not.
    InvalidFlag,
    /// Any of these, for `md` and `ma`.
    BadFlag,
    /// More flags than memcached takes, to `mg`.
    TooManyFlagsToGet,
    /// The same, to others.
    TooManyFlags,
    /// The key is not the base64 that `b` says it is.
    BadKey,
    /// The number of T, N, R or C is none.
    BadToken,
    /// The mode is not one letter.
    BadModeLength,
    /// J is no number.
    BadInitial,
    /// D is no number.
    BadDelta,
    /// `ms` has no such mode.
    BadSetMode,
    /// `ma` has no such mode.
    BadArithmeticMode,
    /// An opaque of more than 31 bytes.
    OpaqueTooLong,
}

impl Fault {
    /// memcached's line, with its end.
    pub fn line(self) -> &'static [u8] {
        match self {
            Fault::DuplicateFlag => b"CLIENT_ERROR duplicate flag\r\n",
            Fault::InvalidFlag => b"CLIENT_ERROR invalid flag\r\n",
            Fault::BadFlag => b"CLIENT_ERROR invalid or duplicate flag\r\n",
            Fault::TooManyFlagsToGet => b"CLIENT_ERROR options flags are too long\r\n",
            Fault::TooManyFlags => b"CLIENT_ERROR options flags too long\r\n",
            Fault::BadKey => b"CLIENT_ERROR error decoding key\r\n",
            Fault::BadToken => b"CLIENT_ERROR bad token in command line format\r\n",
            Fault::BadModeLength => b"CLIENT_ERROR incorrect length for M token\r\n",
            Fault::BadInitial => b"CLIENT_ERROR invalid numeric initial value\r\n",
            Fault::BadDelta => b"CLIENT_ERROR invalid numeric delta value\r\n",
            Fault::BadSetMode => b"CLIENT_ERROR invalid mode for ms M token\r\n",
            Fault::BadArithmeticMode => b"CLIENT_ERROR invalid mode for ma M token\r\n",
            Fault::OpaqueTooLong => b"CLIENT_ERROR opaque token too long\r\n",
        }
    }
}
