"""Packed numbers: codes and scales. An edit moves the codes and leaves every scale where it is."""
