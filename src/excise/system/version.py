"""The version of excise, for everything that writes it down."""

VERSION = "0.1.0"
