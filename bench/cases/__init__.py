"""One program for each thing that is measured. Each prints one JSON document."""
