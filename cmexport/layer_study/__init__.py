"""`cmexport plan`: every layer's sensitivity, measured over processes and kept in a file, and the plan that follows."""
