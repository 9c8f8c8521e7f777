plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

val onnxruntime = "1.22.0"

android {
    namespace = "dev.cmexport.bench"
    compileSdk = 35

    defaultConfig {
        applicationId = "dev.cmexport.bench"
        minSdk = 24
        targetSdk = 35
        versionCode = 1
        versionName = "1"
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        buildConfigField("String", "ONNXRUNTIME", "\"$onnxruntime\"")
        // The ABIs of phones; an emulator on a PC wants x86_64 as well.
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    // What kits for Android do with ONNX Runtime too.
    sourceSets["main"].kotlin.srcDir("../../../cmexport/kits/templates/android/kit/src/shared/kotlin")

    buildFeatures { buildConfig = true }

    buildTypes {
        // Debuggable, so that adb's run-as can hand the job in and take the result out. The time is spent in ONNX
        // Runtime's native code, which is the same in both.
        debug { isMinifyEnabled = false }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:$onnxruntime")
    androidTestImplementation("androidx.test:core:1.6.1")
    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("androidx.test.ext:junit:1.2.1")
}
