package dev.cmexport.bench;

/** What Gradle writes for the bench app. */
public class BuildConfig {
    public static final String ONNXRUNTIME = "1.22.0", VERSION_NAME = "1";
}
