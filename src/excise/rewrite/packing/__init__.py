"""Packed numbers: codes and scales. An edit moves the codes; scales only where the codes do not reach."""
