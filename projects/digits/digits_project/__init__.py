"""What the two programs of this project share: settings, data, networks, pictures, and the course of a run."""
