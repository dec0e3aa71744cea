"""What is wrong, why, and what helps; pure but for `diagnosis_tools`."""
