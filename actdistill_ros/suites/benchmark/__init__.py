"""The side that runs in the benchmark's own Python: standard library, numpy and the benchmark, nothing of this
package."""
